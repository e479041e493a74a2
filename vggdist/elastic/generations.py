"""A run that goes on when ranks die, join or leave: in the same processes, from a copy of the training in their memory.

Whatever changes, all ranks there are then begin a new generation of the training: they set it up as at any start, only that
the newest *commit* that any of them holds stands in the place of the newest checkpoint on the disk. So what holds for a run
that continues on another number of ranks holds here.
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


class RanksChange(Exception):
    """Raised on every rank, with everything committed, when the hosts of an elastic job have changed."""


def run_elastic(
    train: Callable[[World], _Result], world: World, memory: ElasticState, between: Callable[[], str | None]
) -> _Result:
    """Train on these ranks, and after each change of theirs again on those that there are.

    Args:
        train: sets the training up where ``memory`` stands, and trains to the end.
        between: called after a change, before the new ranks meet; tells which rank was lost, if that is known.

    Raises:
        RequestError: on every rank, where the launcher does not keep an elastic job.
        Dismissed: on a rank whose host was removed.
    """
    if _launcher_is_elastic():
        _listen(memory)
    while True:
        try:
            world.together(_require_elastic_launcher)
            return train(world)
        except RanksChange:
            reason = "the hosts have changed"
        except mx.MXNetError as error:
            if not lost_contact(error):
                raise
            reason = "a rank was lost"
            disconnect(world)
            _drain()
        gc.collect()  # the arrays of the generation that has ended
        memory.change = between() or reason
        logger.info("%s; the ranks that there are now meet anew", memory.change)
        memory.hosts_changed = False  # what is told from now on may come too late for the next generation
        world = reinitialize()


def _listen(memory: ElasticState) -> None:
    """Let the launcher tell this process, if it is rank 0, that the hosts have changed."""
    from horovod.runner.elastic.worker import WorkerNotificationManager

    notifications = WorkerNotificationManager()
    notifications.init()
    notifications.register_listener(memory)


def _launcher_is_elastic() -> bool:
    return os.environ.get("HOROVOD_ELASTIC") == "1"


def _require_elastic_launcher() -> None:
    if not _launcher_is_elastic():
        raise RequestError(
            "run.elastic needs horovodrun --host-discovery-script SCRIPT --min-np N (on Gloo), which starts the ranks of a "
            "job that may change"
        )


def _drain() -> None:
    """Let everything that was handed to the device come to its end. Each array that failed says so once."""
    while True:
        try:
            mx.nd.waitall()
            return
        except mx.MXNetError:
            continue
