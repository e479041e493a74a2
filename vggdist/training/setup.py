"""From a configuration to everything that the loop uses, checked over all ranks before the first step."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mxnet as mx
from mxnet.gluon import nn

from vggdist.checkpoints.state import named_arrays, require_match, restore
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.load import as_yaml, run_directory
from vggdist.config.schema import Config
from vggdist.data.augment import EvaluationView, TrainingView, statistics
from vggdist.data.sampler import SamplePlan, global_batch_size, make_plan
from vggdist.data.sources import DataSet, load
from vggdist.models.inputs import Normalize
from vggdist.models.layers import describe, summary_table
from vggdist.models.vgg import build_vgg
from vggdist.training.calendar import Calendar
from vggdist.training.metrics import MovingAverage
from vggdist.training.optimizer import Optimizer
from vggdist.training.progress import Progress
from vggdist.training.schedule import Schedule, scaled_learning_rate
from vggdist.training.step import Objective, TrainStep
from vggdist.world.process import World, choose_device, versions

logger = logging.getLogger(__name__)


@dataclass
class Setup:
    """The parts of a run, ready for its next step."""

    config: Config
    world: World
    device: mx.Context
    num_classes: int
    plan: SamplePlan
    calendar: Calendar
    schedule: Schedule
    training_view: TrainingView
    evaluation_views: dict[str, EvaluationView]
    forward: Callable[[mx.nd.NDArray], mx.nd.NDArray]
    step: TrainStep
    arrays: dict[str, mx.nd.NDArray]
    store: CheckpointStore
    progress: Progress

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the arrays."""
        return {
            **self.progress.as_state(),
            "plan": _identity(self.plan),
            "world_size": self.world.size,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "versions": versions(),
        }


def prepare(config: Config, world: World) -> Setup:
    """Load the data, build the network, agree with the other ranks, and stand where the newest checkpoint stands.

    Raises:
        RequestError: on every rank, when the request does not fit the data, the ranks or the checkpoint.
        RunError: on every rank, when a rank differs from rank 0 in configuration, data or parameters.
    """
    world.require_same("its configuration", as_yaml(config))
    device = world.together(lambda: choose_device(config.run.device, world.local_rank))
    data = world.together(lambda: load(config.data, config.run.seed))
    image_size, plan, calendar, schedule = world.together(lambda: _plan(config, data, world.size))
    classes = data.train.class_names
    world.require_same("its data", f"{len(data.train)} training samples\n{len(data.test)} test samples\n{classes}")

    mean, std = world.together(lambda: _normalization(config, data))
    training_view, evaluation_views = world.together(lambda: _views(config, data, image_size, mean))
    shape = {"channels": data.train.channels, "image_size": image_size, "num_classes": len(classes)}
    layers = world.together(lambda: describe(config.model, **shape))
    logger.info("%s", summary_table(layers))
    network = build_vgg(config.model, **shape, context=device, seed=config.run.seed)
    forward, objective = _graphs(Normalize(mean, std), network, config, device)

    parameters = dict(network.collect_params().items())
    trained = {name: parameter for name, parameter in parameters.items() if parameter.grad_req != "null"}
    optimizer = Optimizer(config.optimizer, trained)
    arrays = named_arrays(parameters, optimizer.states)
    world.require_same("its parameters", "\n".join(f"{name} {a.shape} {a.dtype}" for name, a in arrays.items()))

    store = CheckpointStore(run_directory(config) / "checkpoints")
    progress = Progress(MovingAverage(config.train.loss_smoothing))
    _start(store if config.run.resume == "auto" else None, plan, arrays, progress, world)
    step = TrainStep(objective, optimizer, world, config, device)
    return Setup(
        config,
        world,
        device,
        len(classes),
        plan,
        calendar,
        schedule,
        training_view,
        evaluation_views,
        forward,
        step,
        arrays,
        store,
        progress,
    )


def _plan(config: Config, data: DataSet, world_size: int) -> tuple[int, SamplePlan, Calendar, Schedule]:
    """The sizes and dates of the run, as far as arithmetic knows them."""
    train = config.train
    batch = global_batch_size(train.batch_size, train.global_batch_size, world_size, train.accumulation)
    plan = make_plan(len(data.train), batch, world_size, config.run.seed, config.data.last_batch == "drop")
    calendar = Calendar.of(config, plan.steps_per_epoch)
    peak = scaled_learning_rate(config.optimizer, world_size)
    schedule = Schedule(config.schedule, peak, plan.steps_per_epoch, calendar.total_steps)
    return _image_size(config, data), plan, calendar, schedule


def _image_size(config: Config, data: DataSet) -> int:
    """The side of the images that the network sees."""
    if config.data.image_size is not None:
        return config.data.image_size
    shape = data.train.image_shape
    if shape is None or shape[0] != shape[1]:
        raise RequestError("the images are not squares of one size; set data.image_size")
    return shape[0]


def _normalization(config: Config, data: DataSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if config.augment.normalize == "published":
        return data.mean, data.std
    if config.augment.normalize == "computed":
        return statistics(data.train)
    return (0.0,) * data.train.channels, (1.0,) * data.train.channels


def _views(
    config: Config, data: DataSet, image_size: int, mean: tuple[float, ...]
) -> tuple[TrainingView, dict[str, EvaluationView]]:
    """How the data are seen: in training, and to be measured, by the first part of their metrics' names."""
    fill = tuple(round(255 * value) for value in mean)
    measured = {"eval": EvaluationView(data.test, config.augment, image_size)}
    if config.evaluation.training_set:
        measured["eval_train"] = EvaluationView(data.train, config.augment, image_size)
    return TrainingView(data.train, config.augment, image_size, config.run.seed, fill), measured


def _graphs(
    normalize: Normalize, network: nn.HybridBlock, config: Config, device: mx.Context
) -> tuple[nn.HybridSequential, Objective]:
    """The two ways through the network: from images to scores, and from images and targets to the loss."""
    normalize.initialize(ctx=device)
    forward = nn.HybridSequential(prefix="forward_")
    forward.add(normalize, network)
    objective = Objective(normalize, network, config.train.label_smoothing)
    for graph in (forward, objective):
        graph.hybridize(static_alloc=True, static_shape=True)
    return forward, objective


def _identity(plan: SamplePlan) -> dict[str, Any]:
    """What must not change between two parts of one run; the number of ranks may."""
    return {
        "training samples": plan.num_samples,
        "global batch size": plan.global_batch_size,
        "seed": plan.seed,
        "drop the last batch": plan.drop_last,
    }


def _start(
    store: CheckpointStore | None, plan: SamplePlan, arrays: dict[str, mx.nd.NDArray], progress: Progress, world: World
) -> None:
    """Set arrays and progress to the newest checkpoint of rank 0's disk, or all ranks to rank 0's initial parameters."""
    checkpoint = world.together(lambda: store.newest() if store is not None and world.is_root else None)

    def check() -> None:
        if checkpoint is not None:
            require_match(arrays, checkpoint.arrays)
            _require_same_plan(checkpoint.state["plan"], _identity(plan))

    world.together(check)
    if world.is_root and checkpoint is None:
        stored = {name: array.asnumpy() for name, array in arrays.items()}
    else:
        stored = dict(checkpoint.arrays) if checkpoint is not None else {}
    restore(arrays, stored, world.broadcast)
    state = world.gather(dict(checkpoint.state) if checkpoint is not None else None)[0]
    if state is not None:
        progress.restore(state)
        logger.info("continuing from the checkpoint at step %d", progress.step)


def _require_same_plan(before: dict[str, Any], now: dict[str, Any]) -> None:
    for name, value in now.items():
        if before[name] != value:
            raise RequestError(
                f"the checkpoint's {name} is {before[name]}, this run's is {value}; "
                "continue with the same data and global batch, or use another --run.name"
            )
