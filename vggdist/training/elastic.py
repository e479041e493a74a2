"""A run that goes on when ranks die, join or leave: in the same processes, from a copy of the training in their memory.

Whatever changes, all ranks there are then begin a new generation of the training: they set it up as at any start, only that
the newest *commit* that any of them holds stands in the place of the newest checkpoint on the disk. So what holds for a run
that continues on another number of ranks holds here.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import mxnet as mx

from vggdist.checkpoints.snapshot import Snapshot
from vggdist.config.errors import RequestError
from vggdist.data.sources import DataSet
from vggdist.training.resume import Start
from vggdist.world.contact import lost_contact
from vggdist.world.process import World

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class RanksChange(Exception):
    """Raised on every rank, with everything committed, when the hosts of an elastic job have changed."""


@dataclass(frozen=True)
class _Commit:
    step: int
    state: Mapping[str, Any]
    snapshot: Snapshot


class Memory:
    """What outlives a change of the ranks in this process: the data set, and the newest commit.

    There are two sets of buffers: the newest commit that is sure to be whole stays until the next one is.

    Attributes:
        data: the data set, once it is loaded.
        hosts_changed: whether the launcher has told this process that hosts came or are about to go.
        news: what ended the former generation, if there was one.
    """

    def __init__(self) -> None:
        self.data: DataSet | None = None
        self.hosts_changed = False
        self.news: str | None = None
        self._whole: _Commit | None = None
        self._begun: _Commit | None = None
        self._spare: Snapshot | None = None

    def on_hosts_updated(self, timestamp: int, update: int) -> None:
        """Called by Horovod's thread, on rank 0 alone."""
        self.hosts_changed = True

    def commit(self, arrays: Mapping[str, mx.nd.NDArray], state: Mapping[str, Any]) -> None:
        """Begin to keep this moment, unless a commit is under way. Nothing waits.

        Args:
            arrays, state: what a checkpoint would hold.
        """
        if self._begun is None:
            snapshot, self._spare = self._spare or Snapshot(arrays), None
            snapshot.mark()
            snapshot.take(arrays)
            self._begun = _Commit(state["step"], state, snapshot)

    def confirm(self, step: int) -> None:
        """Trust the commit under way if it has come through; to be called when the ballot of the step before has been read.

        A reduction that fails leaves its error to the first who waits for anything that depends on it, and to the others
        stale values. But the next one fails as well, since Horovod does not recover. So a copy is of one age for sure when
        the reduction of the step *after* it has arrived.
        """
        if self._begun is not None and step >= self._begun.step + 2:
            self._trust()

    def commit_surely(self, arrays: Mapping[str, mx.nd.NDArray], state: Mapping[str, Any], world: World) -> None:
        """Keep this moment, and wait for it; every rank must call this."""
        self._forget()
        self.commit(arrays, state)
        world.barrier()
        self._trust()

    def newest(self, world: World) -> Start | None:
        """Where the newest commit of any rank stands, if there is one; every rank must call this."""
        self._forget()
        steps = world.gather(self._whole.step if self._whole is not None else None)
        held = [step for step in steps if step is not None]
        if not held:
            return None
        root = steps.index(max(held))
        here = self._whole if world.rank == root else None
        state = world.gather(here.state if here is not None else None)[root]
        return Start(dict(here.snapshot.values()) if here is not None else {}, state, root, "what the ranks have in memory")

    def _trust(self) -> None:
        if self._begun is not None and self._begun.snapshot.is_whole():
            former, self._whole, self._begun = self._whole, self._begun, None
            self._spare = former.snapshot if former is not None else None
        self._forget()

    def _forget(self) -> None:
        """Give up a commit under way."""
        if self._begun is not None:
            self._spare, self._begun = self._begun.snapshot, None


def survive(train: Callable[[World], _Result], world: World, memory: Memory, between: Callable[[], str | None]) -> _Result:
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
            world.hang_up()
            _drain()
        gc.collect()  # the arrays of the generation that has ended
        memory.news = between() or reason
        logger.info("%s; the ranks that there are now meet anew", memory.news)
        memory.hosts_changed = False  # what is told from now on may come too late for the next generation
        world = World.again()


def _listen(memory: Memory) -> None:
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
