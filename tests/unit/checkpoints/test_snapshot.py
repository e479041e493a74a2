"""The memory of a checkpoint's copies. Their content is tested by the writer's tests."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from vggdist.checkpoints.snapshot import Snapshot


def test_copies_from_a_cpu_lie_in_plain_memory() -> None:
    assert [buffer.context for buffer in Snapshot({"a": mx.nd.ones((2, 3))}).buffers.values()] == [mx.cpu()]


def test_copies_from_a_gpu_lie_in_memory_that_is_pinned_for_that_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU build uses plain memory for this context, so the code path can be tested here."""
    arrays = {"a": mx.nd.array(np.arange(6).reshape(2, 3)), "b": mx.nd.ones((4,))}
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(mx.nd.NDArray, "context", mx.gpu(3))
        snapshot = Snapshot(arrays)
    assert {buffer.context for buffer in snapshot.buffers.values()} == {mx.cpu_pinned(3)}
    snapshot.mark()
    assert not snapshot.is_whole()
    snapshot.take(arrays)
    assert snapshot.is_whole()
    for name, values in snapshot.values():
        assert (values == arrays[name].asnumpy()).all()
