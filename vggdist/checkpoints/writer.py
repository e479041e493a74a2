"""Writes checkpoints in the background: a save costs the training one copy in memory."""

from __future__ import annotations

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.snapshot import Snapshot
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RunError

logger = logging.getLogger(__name__)


class CheckpointWriter:
    """Saves the same arrays repeatedly without blocking the training. For rank 0.

    Attributes:
        failure: error of the newest finished write; None if it succeeded. An ``MXNetError`` comes from an operation of the
            training that the arrays depend on. MXNet raises it only once, and afterwards the arrays read as valid but
            stale, so the training must end with this error.
        seconds: duration of the newest successful save, up to its end on the disk; 0 before the first.
    """

    failure: Exception | None = None
    seconds: float = 0.0

    def __init__(
        self,
        store: CheckpointStore,
        arrays: Mapping[str, mx.nd.NDArray],
        keep_last: int = 1,
        keep_every: int = 0,
        sync_records: Callable[[], None] = lambda: None,
    ) -> None:
        """Allocate the buffers, as much host memory as the arrays.

        Args:
            store: where to write.
            arrays: name -> array on any device, always the same; see :func:`~vggdist.checkpoints.state.named_arrays`.
            keep_last, keep_every: what to keep after each write, see
                :meth:`~vggdist.checkpoints.store.CheckpointStore.prune`.
            sync_records: called by the writing thread before a checkpoint becomes visible, to sync the records that a run
                that continues from it will not write again.
        """
        self.store = store
        self.keep_last, self.keep_every, self.sync_records = keep_last, keep_every, sync_records
        self._arrays = dict(arrays)
        self._snapshot = Snapshot(self._arrays)
        self._thread: threading.Thread | None = None
        self._abandoned = False

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, mx.MXNetError):
            self.abandon()
        else:
            self.close()

    def save(self, state: Mapping[str, Any], best_step: int | None = None) -> None:
        """Start writing the arrays, as they are after all operations so far; waits only for the previous write.

        A failed write is logged, and stored in :attr:`failure`.

        Args:
            state: JSON values, copied; ``step`` is the number of finished steps.
            best_step: keep this checkpoint, too.
        """
        self.wait()
        started = time.perf_counter()
        self._snapshot.take(self._arrays)
        self._start(state, best_step, lambda state: self.store.save(self._finite(), state, self._confirm), started)

    def amend(self, state: Mapping[str, Any], best_step: int | None = None) -> None:
        """Start replacing the state of a step's checkpoint, whose arrays have not changed since it was saved."""
        self.wait()
        if self.failure is None and state["step"] in self.store.complete_steps():
            self._start(state, best_step, lambda state: self.store.amend(state, self._confirm))
        else:
            self.save(state, best_step)

    def _start(
        self,
        state: Mapping[str, Any],
        best_step: int | None,
        write: Callable[[dict[str, Any]], Path],
        started: float | None = None,
    ) -> None:
        arguments = (copy.deepcopy(dict(state)), best_step, write, started)
        # Of normal priority: at a lower one the write starves for minutes when ranks or loaders use all cores.
        # A daemon: copies that wait for a dead rank must not keep this process alive.
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait for the current write to succeed or fail."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Wait for the current write; its thread has then ended."""
        self.wait()

    def abandon(self) -> None:
        """Prevent the current write from becoming a checkpoint; to be called as soon as an ``MXNetError`` is caught.

        The arrays may depend on the failed operation: some copies are then from before it, some from after it.
        """
        self._abandoned = True

    def _write(
        self, state: dict[str, Any], best_step: int | None, write: Callable[[dict[str, Any]], Path], started: float | None
    ) -> None:
        try:
            write(state)
            self.store.prune(self.keep_last, self.keep_every, best_step)
        except Exception as error:
            self.failure = error
            self._warn(state["step"], error)
        else:
            self.failure = None
            if started is not None:
                self.seconds = time.perf_counter() - started
        finally:
            self._snapshot.mark()

    def _finite(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The copies, one at a time, each when it is complete; raises ``RunError`` if one is not finite."""
        for name, values in self._snapshot.values():
            if not np.isfinite(values).all():
                raise RunError(f"{name} is not finite; lower optimizer.learning_rate or set optimizer.clip_norm")
            yield name, values

    def _confirm(self) -> None:
        self.sync_records()
        if self._abandoned:
            raise RunError("the training has failed")

    def _warn(self, step: int, error: Exception) -> None:
        complete = self.store.complete_steps()
        newest = f"the newest checkpoint is step {complete[-1]}" if complete else "there is no checkpoint"
        continues = "the training continues, " if isinstance(error, OSError) else ""
        path = self.store.path(step)
        logger.warning("checkpoint of step %d could not be written: %s (%s); %s%s", step, error, path, continues, newest)
