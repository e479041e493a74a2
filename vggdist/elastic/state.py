"""State that a process of an elastic job keeps when the ranks change: the data set, and the newest committed step."""

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
    """The data set and the newest commit, which this process keeps when the ranks change.

    There are two sets of buffers: the newest confirmed commit is kept until the next one is confirmed.

    Attributes:
        data: the data set, once it is loaded.
        hosts_changed: whether the launcher has notified this process that hosts were added or are about to be removed.
        change: why the previous generation ended; None in the first one.
    """

    def __init__(self) -> None:
        self.data: DataSet | None = None
        self.hosts_changed = False
        self.change: str | None = None
        self._confirmed: _Commit | None = None
        self._pending: _Commit | None = None
        self._free: Snapshot | None = None

    def on_hosts_updated(self, timestamp: int, update: int) -> None:
        """Called by Horovod's thread, on rank 0 only."""
        self.hosts_changed = True

    def commit(self, arrays: Mapping[str, mx.nd.NDArray], state: Mapping[str, Any]) -> None:
        """Start to copy the training state, unless a commit is pending. Does not wait.

        Args:
            arrays, state: the contents of a checkpoint.
        """
        if self._pending is None:
            snapshot, self._free = self._free or Snapshot(arrays), None
            snapshot.mark()
            snapshot.take(arrays)
            self._pending = _Commit(state["step"], state, snapshot)

    def confirm(self, step: int) -> None:
        """Confirm the pending commit if it is consistent; to be called when the flags of the previous step have been read.

        A failed reduction raises its error once, where something that depends on it is first waited for; other arrays may have
        stale values. But the next reduction fails as well, since Horovod does not recover. So all arrays of a copy are of the
        same step if the reduction of the step *after* it has succeeded.
        """
        if self._pending is not None and step >= self._pending.step + 2:
            self._confirm_pending()

    def commit_and_wait(self, arrays: Mapping[str, mx.nd.NDArray], state: Mapping[str, Any], world: World) -> None:
        """Copy the training state, and wait for the copy; every rank must call this."""
        self._discard_pending()
        self.commit(arrays, state)
        world.barrier()
        self._confirm_pending()

    def newest(self, world: World) -> Start | None:
        """The newest confirmed commit of any rank, if there is one; every rank must call this."""
        self._discard_pending()
        steps = world.gather(self._confirmed.step if self._confirmed is not None else None)
        committed = [step for step in steps if step is not None]
        if not committed:
            return None
        root = steps.index(max(committed))
        own = self._confirmed if world.rank == root else None
        state = world.gather(own.state if own is not None else None)[root]
        return Start(dict(own.snapshot.values()) if own is not None else {}, state, root, "the state in the ranks' memory")

    def _confirm_pending(self) -> None:
        if self._pending is not None and self._pending.snapshot.is_whole():
            previous, self._confirmed, self._pending = self._confirmed, self._pending, None
            self._free = previous.snapshot if previous is not None else None
        self._discard_pending()

    def _discard_pending(self) -> None:
        if self._pending is not None:
            self._free, self._pending = self._pending.snapshot, None
