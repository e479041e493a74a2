"""Continues a run when ranks die, join or leave: in the same processes, from a copy of the training state in memory.

After each change the process group is re-initialised, and all ranks begin a new generation of the training. It is set up as
at any start, but from the newest *commit* in the memory of any rank instead of the newest checkpoint. So the guarantees for a
run that continues on another number of ranks apply.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import mxnet as mx

from vggdist.collectives.lost_contact import lost_contact
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.elastic.reinitialization import disconnect, reinitialize
from vggdist.elastic.state import ElasticState

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class HostsChanged(Exception):
    """Raised on every rank after a commit, when the hosts of an elastic job have changed."""


def run_elastic(
    train: Callable[[World], _Result], world: World, memory: ElasticState, between: Callable[[], str | None]
) -> _Result:
    """Train on these ranks, and after each change on the new ranks.

    Args:
        train: sets the training up from the commit in ``memory``, and trains to the end.
        between: called after a change, before the process group is re-initialised; returns the failure, if it is known.

    Raises:
        RequestError: on every rank, if the launcher does not support elastic jobs.
        Dismissed: on a rank whose host was removed.
    """
    if _launcher_is_elastic():
        _listen(memory)
    while True:
        try:
            world.together(_require_elastic_launcher)
            return train(world)
        except HostsChanged:
            reason = "the hosts have changed"
        except mx.MXNetError as error:
            if not lost_contact(error):
                raise
            reason = "a rank was lost"
            disconnect(world)
            _drain()
        gc.collect()  # frees the arrays of the previous generation
        memory.change = between() or reason
        logger.info("%s; re-initialising the process group", memory.change)
        memory.hosts_changed = False  # reset first: a later notification may come too late for the next generation
        world = reinitialize()


def _listen(memory: ElasticState) -> None:
    """Register for the launcher's notifications of changed hosts; only rank 0 gets them."""
    from horovod.runner.elastic.worker import WorkerNotificationManager

    notifications = WorkerNotificationManager()
    notifications.init()
    notifications.register_listener(memory)


def _launcher_is_elastic() -> bool:
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def _require_elastic_launcher() -> None:
    if not _launcher_is_elastic():
        raise RequestError(
            "run.elastic needs an elastic launcher: horovodrun --host-discovery-script SCRIPT --min-np N (on Gloo)"
        )


def _drain() -> None:
    """Wait for all work on the device. Each array that failed raises its error once."""
    while True:
        try:
            mx.nd.waitall()
            return
        except mx.MXNetError:
            continue
