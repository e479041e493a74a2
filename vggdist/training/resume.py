"""Resuming a run from its newest checkpoint, if that belongs to the same training."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import mxnet as mx

from vggdist.checkpoints import state as arrays_of_checkpoints
from vggdist.checkpoints.schema import CheckpointState
from vggdist.checkpoints.start import Start
from vggdist.checkpoints.store import CheckpointStore
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError, written
from vggdist.config.schema import Config
from vggdist.data.fingerprint import difference
from vggdist.data.sampler import SamplePlan, global_batch_size
from vggdist.models.spec import ModelSpec
from vggdist.training.progress import Progress

logger = logging.getLogger(__name__)

_ADVICE = "continue with the same model, data and global batch, or use another --run.name"
_UNCHANGED_BY = (
    "run.",
    "world.",
    "checkpoint.",
    "model.",
    "evaluation.every",
    "evaluation.batch_size",
    "train.batch_size",
) + ("train.global_batch_size", "data.root", "data.download", "data.threads", "data.prefetch", "data.damaged")
"""Prefixes of the keys that do not change what a training computes, or that are compared as a part of the model."""
_BEST_METRIC = "checkpoint.best_metric"
_OF_TRAINING = ("model.dropout", "model.norm_momentum", _BEST_METRIC)


def find(store: CheckpointStore | None, world: World) -> Start:
    """Read the newest intact checkpoint on rank 0; every rank gets its state.

    Args:
        store: None to start from the beginning.

    Raises:
        RequestError: on every rank, when there are checkpoints but none is intact, or another version wrote the newest.
    """

    def read() -> Start:
        if store is None or not world.is_root:
            return Start({}, None)
        checkpoint = store.newest()
        if checkpoint is None:
            return Start({}, None)
        return Start(checkpoint.arrays, checkpoint.state)

    start = world.together(read)
    return Start(start.arrays, world.gather(start.state)[0])


def batch_size_of(config: Config, world_size: int, state: CheckpointState | None) -> int:
    """The global batch size; a run that continues on another number of ranks keeps it.

    Raises:
        RequestError: when the first ranks of a run that is not elastic cannot share it evenly.
    """
    train = config.train
    if state is None and not config.run.elastic:
        return global_batch_size(train.batch_size, train.global_batch_size, world_size, train.accumulation)
    first_world_size = world_size if state is None else state["scaled_for_ranks"]
    return train.global_batch_size or train.batch_size * first_world_size


def identity(config: Config, plan: SamplePlan) -> dict[str, str | int | bool]:
    """What must not change when a run continues, apart from model and data; the number of ranks may."""
    return {
        "seed": plan.seed,  # first, since the labels of a held-out part depend on it
        "augment.normalize": config.augment.normalize,
        "global batch size": plan.global_batch_size,
        "drop the last batch": plan.drop_last,
    }


def settings(config: Config) -> dict[str, str]:
    """Settings that may change when a run continues, but change its further course."""
    values = {
        f"{section}.{key}": written(value)
        for section, keys in dataclasses.asdict(config).items()
        for key, value in keys.items()
    }
    return {key: value for key, value in values.items() if key in _OF_TRAINING or not key.startswith(_UNCHANGED_BY)}


def restore(start: Start, now: CheckpointState, arrays: Mapping[str, mx.nd.NDArray], progress: Progress, world: World) -> None:
    """Set arrays and progress to the checkpoint, or all ranks to the initial parameters of rank 0.

    Args:
        now: the checkpoint state of this run before restoring.

    Raises:
        RequestError: on every rank, if the checkpoint is of another model, data set or optimizer; the message names the
            first difference.
    """

    def check() -> None:
        if start.state is not None:
            _require_same(start.state, now)
            if world.rank == start.root:
                arrays_of_checkpoints.require_match(arrays, start.arrays)

    world.together(check)
    stored = start.arrays
    if start.state is None and world.is_root:
        stored = {name: array.asnumpy() for name, array in arrays.items()}
    arrays_of_checkpoints.restore(arrays, stored, partial(world.broadcast, root=start.root))
    if start.state is not None:
        progress.restore(start.state)
        metric = now["settings"][_BEST_METRIC]
        if start.state["settings"].get(_BEST_METRIC, metric) != metric:
            progress.best_value = progress.best_step = None  # of the other metric
        logger.info("continuing from %s at step %d", start.origin, progress.step)
        _report_differences(start.state, now, world)


def _require_same(before: CheckpointState, now: CheckpointState) -> None:
    for name, value in now["identity"].items():
        if before["identity"].get(name) != value:
            raise RequestError(
                f"the checkpoint's {name} is {before['identity'].get(name)!s:.200}, this run's is {value}; {_ADVICE}"
            )
    _require_same_data(before["data"], now["data"])
    if changed := ModelSpec.from_json(now["model"]).difference(ModelSpec.from_json(before["model"])):
        raise RequestError(f"{changed}; {_ADVICE}")


def _require_same_data(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse other labels, which make another training; other pixels are allowed, and logged."""
    for name, part in now.items():
        earlier = before.get(name)
        changed = difference(earlier, part) if earlier is not None else "did not exist when the run began"
        if changed is None:
            continue
        same_labels = earlier is not None and earlier["labels"] == part["labels"] and earlier["classes"] == part["classes"]
        if name == "train" and not same_labels:
            raise RequestError(f"the training set {changed}; {_ADVICE}")


def _report_differences(before: CheckpointState, now: CheckpointState, world: World) -> None:
    """Log what changes the further course of the run; what all ranks share, only on rank 0."""
    own = [("threads of each rank", before["threads"], now["threads"])]
    same_ranks = before["world_size"] == now["world_size"]  # other numbers of ranks always differ in what they send
    shared = [
        ("ranks", before["world_size"], now["world_size"]),
        ("sent between the ranks", before["reduction"] if same_ranks else now["reduction"], now["reduction"]),
    ]
    for what, earlier, value in [*own, *(shared if world.is_root else [])]:
        if earlier != value:
            logger.warning("%s: %s before, %s now; the run continues, but its last bits will differ", what, earlier, value)
    if not world.is_root:
        return
    for name, part in now["data"].items():
        if changed := difference(before["data"][name], part) if name in before["data"] else "is new":
            logger.warning("the %s set %s", {"train": "training"}.get(name, name), changed)
    for key, setting in now["settings"].items():
        if (earlier_setting := before["settings"].get(key, setting)) != setting:
            logger.warning("%s: %s before, %s from step %d on", key, earlier_setting, setting, before["step"])
