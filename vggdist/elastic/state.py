"""What a process of an elastic job keeps in memory when the ranks change: the data set, and the newest committed step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mxnet as mx

from vggdist.checkpoints.snapshot import Snapshot
from vggdist.checkpoints.start import Start
from vggdist.collectives.world import World
from vggdist.data.dataset import DataSet


@dataclass(frozen=True)
class _Commit:
    step: int
    state: Mapping[str, Any]
    snapshot: Snapshot


class ElasticState:
    """What outlives a change of the ranks in this process: the data set, and the newest commit.

    There are two sets of buffers: the newest commit that is sure to be whole stays until the next one is.

    Attributes:
        data: the data set, once it is loaded.
        hosts_changed: whether the launcher has told this process that hosts came or are about to go.
        change: what ended the former generation, if there was one.
    """

    def __init__(self) -> None:
        self.data: DataSet | None = None
        self.hosts_changed = False
        self.change: str | None = None
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
        """Trust the commit under way if it has come through; to be called when the flags of the step before has been read.

        A reduction that fails leaves its error to the first who waits for anything that depends on it, and to the others
        stale values. But the next one fails as well, since Horovod does not recover. So a copy is of one age for sure when
        the reduction of the step *after* it has arrived.
        """
        if self._begun is not None and step >= self._begun.step + 2:
            self._trust()

    def commit_and_wait(self, arrays: Mapping[str, mx.nd.NDArray], state: Mapping[str, Any], world: World) -> None:
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
