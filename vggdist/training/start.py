"""Where a run stands when it starts: at its newest checkpoint, if that fits, or at the beginning."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import mxnet as mx
import numpy as np

from vggdist.checkpoints.state import require_match, restore
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.schema import Config, TrainConfig
from vggdist.data.sampler import SamplePlan, global_batch_size
from vggdist.data.sources import DataSet
from vggdist.training.progress import Progress
from vggdist.world.process import World

logger = logging.getLogger(__name__)

# What may change between two parts of one run without making it another network.
_FREE_MODEL_KEYS = {"dropout", "initializer", "magnitude"}


@dataclass(frozen=True)
class Start:
    """The checkpoint that a run continues from, or nothing where it begins.

    Attributes:
        arrays: on the root; empty on the others.
        state: on every rank.
        root: the rank that has the arrays.
        origin: where they are from, for the log.
    """

    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any] | None
    root: int = 0
    origin: str = "the checkpoint"


def find(store: CheckpointStore | None, world: World) -> Start:
    """Read the newest whole checkpoint on rank 0, and tell all ranks what it says of itself.

    Args:
        store: None to begin anew.

    Raises:
        RequestError: on every rank, where there are checkpoints but none is whole, or another version wrote it.
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


def fitting_batch_size(train: TrainConfig, world_size: int, state: Mapping[str, Any] | None, elastic: bool = False) -> int:
    """The samples of one step over all ranks; a run that continues on any other number of ranks keeps them.

    Raises:
        RequestError: when the ranks with which a run begins cannot share them evenly, unless they are to change anyway.
    """
    if state is None and not elastic:
        return global_batch_size(train.batch_size, train.global_batch_size, world_size, train.accumulation)
    beginning = world_size if state is None else int(state["scaled_for_ranks"])
    return train.global_batch_size or train.batch_size * beginning


def identity(config: Config, data: DataSet, plan: SamplePlan) -> dict[str, Any]:
    """What must not change between two parts of one run; the number of ranks may, and :func:`augmentation`."""
    model = {key: value for key, value in asdict(config.model).items() if key not in _FREE_MODEL_KEYS}
    names = "\n".join(data.train.class_names)
    return {
        **{f"model.{key}": str(value) for key, value in model.items()},
        "augment.normalize": config.augment.normalize,
        "seed": plan.seed,  # before what follows from it: the labels of a part that is held out
        "training samples": plan.num_samples,
        "SHA-256 of the class names": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
        "SHA-256 of the training labels": hashlib.sha256(data.train.labels.astype("<i4").tobytes()).hexdigest(),
        "global batch size": plan.global_batch_size,
        "drop the last batch": plan.drop_last,
    }


def augmentation(config: Config) -> dict[str, str]:
    """What happens to the training images: another one makes other images, but of the same data set."""
    return {f"augment.{key}": str(value) for key, value in asdict(config.augment).items() if key != "normalize"}


def stand(
    start: Start,
    arrays: Mapping[str, mx.nd.NDArray],
    progress: Progress,
    now: dict[str, Any],
    augmentation: Mapping[str, str],
    world: World,
    reduction: str = "nothing",
) -> None:
    """Set arrays and progress to the checkpoint, or all ranks to rank 0's initial parameters.

    Args:
        now: this run's :func:`identity`.
        augmentation: this run's :func:`augmentation`.
        reduction: what travels between the ranks, as :class:`~vggdist.training.reduction.Reduction` describes it.

    Raises:
        RequestError: on every rank, when the checkpoint is of another model, data set or optimizer; the first difference is
            named.
    """

    def check() -> None:
        if start.state is not None:
            _require_same(start.state["identity"], now)
            if world.rank == start.root:
                require_match(arrays, start.arrays)

    world.together(check)
    stored = start.arrays
    if start.state is None and world.is_root:
        stored = {name: array.asnumpy() for name, array in arrays.items()}
    restore(arrays, stored, partial(world.broadcast, root=start.root))
    if start.state is not None:
        progress.restore(start.state)
        logger.info("continuing from %s at step %d", start.origin, progress.step)
        _tell_differences(start.state, augmentation, world, reduction)


def _require_same(before: Mapping[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if before.get(name) != value:
            raise RequestError(
                f"the checkpoint's {name} is {before.get(name)!s:.200}, this run's is {value}; "
                "continue with the same model, data and global batch, or use another --run.name"
            )


def _tell_differences(state: Mapping[str, Any], augmentation: Mapping[str, str], world: World, reduction: str) -> None:
    """Log what makes the rest of the run another than it would have been; what all ranks share, on rank 0 alone."""
    own = [("threads of each rank", state["threads"], os.environ.get("OMP_NUM_THREADS"))]
    same_ranks = state["world_size"] == world.size  # others send something else, of course
    shared = [
        ("ranks", state["world_size"], world.size),
        ("sent between the ranks", state.get("reduction", reduction) if same_ranks else reduction, reduction),
    ]
    for what, before, now in [*own, *(shared if world.is_root else [])]:
        if before != now:
            logger.warning("%s: %s before, %s now; the run goes on, but its last bits will differ", what, before, now)
    for key, value in augmentation.items() if world.is_root else []:
        if state["augmentation"].get(key) != value:
            logger.warning("%s: %s before, %s now; the run goes on", key, state["augmentation"].get(key), value)
