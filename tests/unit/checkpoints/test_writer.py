"""Saving in the background: the content is that at the time of the save, and failures are reported."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import mxnet as mx
import numpy as np
import pytest

from tests.states import training_state
from vggdist.checkpoints.store import CheckpointStore
from vggdist.checkpoints.writer import CheckpointWriter
from vggdist.config.errors import RunError


class GatedStore(CheckpointStore):
    """Blocks writes until its gate is opened."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.gate = threading.Event()
        self.begun = 0

    def save(
        self,
        arrays: Iterable[tuple[str, np.ndarray]],
        state: Mapping[str, Any],
        confirm: Callable[[], None] = lambda: None,
    ) -> Path:
        self.begun += 1
        assert self.gate.wait(30)
        return super().save(arrays, state, confirm)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GatedStore]:
    """A store with an open gate, which a test may close."""
    made = GatedStore(tmp_path / "checkpoints")
    made.gate.set()
    yield made
    made.gate.set()


@pytest.fixture
def arrays() -> dict[str, mx.nd.NDArray]:
    return {
        "parameter/a": mx.nd.arange(6).reshape((2, 3)),
        "parameter/b": mx.nd.array([0.5, -1.5], dtype="float16"),
        "optimizer/a/momentum": mx.nd.ones((2, 3)),
    }


def loaded(store: CheckpointStore, step: int) -> dict[str, np.ndarray]:
    return dict(store.load(step).arrays)


def values(arrays: Mapping[str, mx.nd.NDArray]) -> dict[str, np.ndarray]:
    return {name: array.asnumpy() for name, array in arrays.items()}


def same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Equal to the last bit."""
    return list(one) == list(other) and all(
        a.dtype == other[name].dtype and a.shape == other[name].shape and a.tobytes() == other[name].tobytes()
        for name, a in one.items()
    )


def test_a_save_and_a_wait_write_the_arrays_bit_for_bit(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    writer = CheckpointWriter(store, arrays)
    assert writer.seconds == 0
    started = time.perf_counter()
    writer.save(training_state(1, training_metrics={"loss": 0.1}))
    writer.wait()
    assert 0 < writer.seconds <= time.perf_counter() - started
    assert same(loaded(store, 1), values(arrays)) and writer.failure is None
    assert store.load(1).state == training_state(1, training_metrics={"loss": 0.1})


def test_records_are_on_the_disk_before_a_checkpoint_that_counts_on_them_is_visible(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray]
) -> None:
    seen: list[tuple[list[int], str]] = []
    writer = CheckpointWriter(
        store, arrays, keep_last=9, sync_records=lambda: seen.append((store.steps(), threading.current_thread().name))
    )
    for step in (1, 2):
        writer.save(training_state(step))
    writer.wait()
    assert seen == [([], "checkpoint"), ([1], "checkpoint")] and store.steps() == [1, 2]


def test_the_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray]
) -> None:
    store.gate.clear()
    writer, state = CheckpointWriter(store, arrays), training_state(1, training_metrics={"loss": 0.1})
    before = values(arrays)
    writer.save(state)
    for array in arrays.values():
        array += 1
    state["training_metrics"], state["step"] = {"loss": 99}, 99
    mx.nd.waitall()
    assert store.steps() == []
    store.gate.set()
    writer.wait()
    assert same(loaded(store, 1), before) and store.load(1).state == training_state(1, training_metrics={"loss": 0.1})


def test_nested_values_of_the_state_are_those_of_the_save(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    store.gate.clear()
    writer, metrics = CheckpointWriter(store, arrays), dict[str, float | None](loss=0.1)
    writer.save(training_state(1, training_metrics=metrics))
    metrics["loss"] = 99
    store.gate.set()
    writer.wait()
    assert store.load(1).state["training_metrics"] == {"loss": 0.1}


def test_operations_that_were_asked_for_before_the_save_are_in_it(store: GatedStore) -> None:
    array = mx.nd.ones((700, 700))
    mx.nd.waitall()
    writer = CheckpointWriter(store, {"parameter/a": array})
    for _ in range(30):
        array[:] = mx.nd.dot(array, array) / 700  # slower than the save's call
    array += 1
    writer.save(training_state(1))
    array += 1
    writer.wait()
    assert np.unique(loaded(store, 1)["parameter/a"]).tolist() == [2]


def test_a_second_save_waits_for_the_first(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    store.gate.clear()
    writer = CheckpointWriter(store, arrays, keep_last=9)
    writer.save(training_state(1))
    first = values(arrays)
    arrays["parameter/a"] += 1
    second_save = threading.Thread(target=writer.save, args=(training_state(2),))
    second_save.start()
    second_save.join(0.2)
    assert second_save.is_alive() and store.begun == 1
    store.gate.set()
    second_save.join()
    writer.wait()
    assert store.begun == 2
    assert same(loaded(store, 1), first) and same(loaded(store, 2), values(arrays))


def test_weights_that_inference_has_reordered_are_saved_bit_for_bit(store: GatedStore) -> None:
    network = mx.gluon.nn.HybridSequential(prefix="network_")
    with network.name_scope():
        network.add(
            mx.gluon.nn.Conv2D(64, 3, padding=1, in_channels=3),
            mx.gluon.nn.Conv2D(64, 3, padding=1, in_channels=64),
            mx.gluon.nn.Dense(10, in_units=64 * 8 * 8),
        )
    mx.random.seed(0)
    network.initialize(mx.init.Uniform(1))
    network.hybridize(static_alloc=True, static_shape=True)
    images = mx.nd.random.uniform(shape=(8, 3, 8, 8))
    arrays = {f"parameter/{name}": parameter.data() for name, parameter in network.collect_params().items()}
    writer = CheckpointWriter(store, arrays, keep_last=9)
    expected = values(arrays)
    for step in (1, 2, 3):
        network(images).wait_to_read()
        with pytest.raises(mx.MXNetError, match="MKLDNN"):  # they are in oneDNN's layout
            arrays["parameter/network_conv1_weight"][:] = np.zeros((64, 64, 3, 3), np.float32)
        writer.save(training_state(step))
        for array in arrays.values():
            mx.nd.sgd_update(array, mx.nd.ones_like(array), lr=0.125, wd=0.0, out=array)
        writer.wait()
        assert same(loaded(store, step), expected), step
        expected = {name: array - np.float32(0.125) for name, array in expected.items()}
        assert same(values(arrays), expected)


def test_a_former_save_with_inference_between_leaves_no_trace(store: GatedStore) -> None:
    layer = mx.gluon.nn.Conv2D(64, 3, in_channels=64, prefix="layer_")
    layer.initialize(mx.init.Uniform(1))
    layer.hybridize(static_alloc=True, static_shape=True)
    arrays = {name: parameter.data() for name, parameter in layer.collect_params().items()}
    writer, images = CheckpointWriter(store, arrays, keep_last=9), mx.nd.ones((2, 64, 8, 8))
    for step in range(1, 7):
        if step % 3:
            layer(images).wait_to_read()
        writer.save(training_state(step))
        writer.wait()
        assert same(loaded(store, step), values(arrays))
        for array in arrays.values():
            array[:] = mx.nd.random.uniform(shape=array.shape)


def test_another_state_of_the_same_arrays_is_written_without_them(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    with CheckpointWriter(store, arrays) as writer:
        writer.save(training_state(step=3, best_step=1))
        writer.wait()
        before, expected = (store.path(3) / "arrays.npz").stat(), values(arrays)
        writer.amend(training_state(step=3, best_step=3))
        writer.wait()
        assert writer.failure is None and store.best_step() == 3 and same(loaded(store, 3), expected)
        assert (store.path(3) / "arrays.npz").stat().st_ino == before.st_ino
        assert writer.seconds > 0


@pytest.mark.parametrize("lost", ["gone", "never written"])
def test_arrays_that_are_not_there_are_written_with_the_other_state(
    lost: str, store: GatedStore, arrays: dict[str, mx.nd.NDArray]
) -> None:
    with CheckpointWriter(store, arrays) as writer:
        if lost == "gone":
            writer.save(training_state(step=3))
            writer.wait()
            (store.path(3) / "arrays.npz").unlink()
        writer.amend(training_state(step=3, best_step=3))
        writer.wait()
        assert writer.failure is None and same(loaded(store, 3), values(arrays))


def test_what_need_not_be_kept_is_pruned_after_each_write(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    writer = CheckpointWriter(store, arrays, keep_last=2, keep_every=4)
    for step in range(1, 8):
        writer.save(training_state(step), best_step=3 if step >= 3 else None)
    writer.close()
    assert store.steps() == [3, 4, 6, 7]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 5])
def test_a_value_that_is_not_finite_replaces_and_prunes_nothing(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray], log: pytest.LogCaptureFixture, value: float, position: int
) -> None:
    writer = CheckpointWriter(store, arrays, keep_last=1)
    writer.save(training_state(1))
    writer.wait()
    good = loaded(store, 1)
    arrays["optimizer/a/momentum"].reshape((-1,))[position] = value
    for step in (1, 2):
        writer.save(training_state(step))
        writer.wait()
        assert isinstance(writer.failure, RunError)
        assert str(writer.failure) == (
            "optimizer/a/momentum is not finite; lower optimizer.learning_rate or set optimizer.clip_norm"
        )
    assert same(loaded(store, 1), good) and store.steps() == [1]
    assert "checkpoint of step 2 could not be written: optimizer/a/momentum is not finite" in log.text
    assert "the newest checkpoint is step 1" in log.text and "the training continues" not in log.text


def test_a_failing_disk_is_reported_at_once_and_forgotten_after_a_success(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray], log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> NoReturn:
        raise OSError(28, "No space left on device")

    writer = CheckpointWriter(store, arrays, keep_last=1)
    writer.save(training_state(1))
    writer.wait()
    seconds = writer.seconds
    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", full)
        writer.save(training_state(2))
        writer.wait()
    assert isinstance(writer.failure, OSError) and store.steps() == [1] and writer.seconds == seconds
    expected = (
        f"checkpoint of step 2 could not be written: [Errno 28] No space left on device ({store.path(2)}); "
        "the training continues, the newest checkpoint is step 1"
    )
    assert [record.getMessage() for record in log.records if record.levelno == logging.WARNING] == [expected]
    writer.save(training_state(3))
    writer.wait()
    assert writer.failure is None and store.steps() == [3]


def test_without_any_checkpoint_a_failure_says_so(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray], log: pytest.LogCaptureFixture
) -> None:
    store.directory.write_text("in the way")
    writer = CheckpointWriter(store, arrays)
    writer.save(training_state(1))
    writer.wait()
    assert isinstance(writer.failure, OSError) and "there is no checkpoint" in log.text


def test_a_state_that_is_no_json_is_a_failure_and_not_lost(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    writer = CheckpointWriter(store, arrays)
    writer.save({"step": 1, "array": object})
    writer.wait()
    assert isinstance(writer.failure, TypeError) and store.steps() == []


def fail_later(array: mx.nd.NDArray) -> None:
    """Let the array depend on an operation that fails when it is executed."""
    array += mx.nd.random.normal(0, -1, array.shape, dtype=array.dtype)


def test_an_operation_that_failed_is_a_failure_of_the_write(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    writer = CheckpointWriter(store, arrays)
    writer.save(training_state(1))
    writer.wait()
    good = loaded(store, 1)
    fail_later(arrays["parameter/a"])
    writer.save(training_state(1))
    writer.wait()
    assert isinstance(writer.failure, mx.MXNetError) and same(loaded(store, 1), good)


def test_an_operation_whose_failure_was_seen_elsewhere_leaves_no_former_values_in_a_checkpoint(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray]
) -> None:
    writer = CheckpointWriter(store, arrays)
    writer.save(training_state(1))
    writer.wait()
    store.gate.clear()
    fail_later(arrays["parameter/a"])
    writer.save(training_state(2))
    with pytest.raises(mx.MXNetError):
        mx.nd.waitall()  # the copy is skipped
    for array in (*arrays.values(), *writer._snapshot.buffers.values()):
        with suppress(mx.MXNetError):
            array.wait_to_read()
    store.gate.set()
    writer.wait()
    assert isinstance(writer.failure, RunError) and store.steps() == [1]


def test_an_abandoned_write_does_not_become_a_checkpoint(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    writer = CheckpointWriter(store, arrays)
    store.gate.clear()
    with pytest.raises(mx.MXNetError, match="Connection closed"), writer:
        writer.save(training_state(1))
        raise mx.MXNetError("Connection closed by peer")
    store.gate.set()
    writer.wait()
    assert store.steps() == [] and isinstance(writer.failure, RunError)


@pytest.mark.parametrize("error", [None, RunError("the loss is not finite")])
def test_leaving_waits_for_the_write_and_ends_the_thread(
    store: GatedStore, arrays: dict[str, mx.nd.NDArray], error: RunError | None
) -> None:
    threads = threading.active_count()
    store.gate.clear()
    threading.Timer(0.2, store.gate.set).start()
    try:
        with CheckpointWriter(store, arrays) as writer:
            writer.save(training_state(1))
            if error:
                raise error
    except RunError:
        pass
    assert store.steps() == [1] and not [t for t in threading.enumerate() if t.name == "checkpoint"]
    assert threading.active_count() <= threads + 1  # the timer's


def test_waiting_and_closing_without_a_save_do_nothing(store: GatedStore, arrays: dict[str, mx.nd.NDArray]) -> None:
    writer = CheckpointWriter(store, arrays)
    writer.wait()
    writer.close()
    assert writer.failure is None and not store.directory.exists()


def test_random_saves_and_updates_always_give_the_moment_of_the_save(store: GatedStore) -> None:
    chance = random.Random(0)
    arrays = {f"parameter/{number}": mx.nd.zeros((chance.randrange(1, 300), 7)) for number in range(20)}
    writer = CheckpointWriter(store, arrays, keep_last=99)
    total, expected = 0, {}
    for step in range(1, 16):
        for _ in range(chance.randrange(4)):
            for array in arrays.values():
                array += 1
            total += 1
        writer.save(training_state(step))
        expected[step] = total
    writer.close()
    found = {step: {float(v) for a in loaded(store, step).values() for v in np.unique(a)} for step in expected}
    assert found == {step: {float(total)} for step, total in expected.items()}
