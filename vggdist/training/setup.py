"""From a configuration to everything that the loop uses, checked over all ranks before the first step."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mxnet as mx
from mxnet.gluon import nn

from vggdist.checkpoints.state import named_arrays
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.load import as_yaml, run_directory
from vggdist.config.schema import Config
from vggdist.data.augment import EvaluationView, TrainingView
from vggdist.data.sampler import SamplePlan, make_plan
from vggdist.data.sharing import from_arrays, to_arrays
from vggdist.data.sources import DataSet, load
from vggdist.data.statistics import statistics, value_counts
from vggdist.models.inputs import Normalize
from vggdist.models.layers import describe, summary_table
from vggdist.models.precision import runs_on_onednn, use_precision
from vggdist.models.vgg import build_vgg
from vggdist.training.calendar import Calendar
from vggdist.training.exchange import sent_by_layer
from vggdist.training.metrics import MovingAverage
from vggdist.training.optimizer import Optimizer
from vggdist.training.progress import Progress
from vggdist.training.schedule import Schedule, scaled_learning_rate
from vggdist.training.start import FORMAT, Start, augmentation, find, fitting_batch_size, identity, stand
from vggdist.training.step import Objective, TrainStep
from vggdist.world.host import once_per_host
from vggdist.world.process import World, choose_device, versions

logger = logging.getLogger(__name__)

_FUSION = "HOROVOD_FUSION_THRESHOLD"


@dataclass
class Setup:
    """The parts of a run, ready for its next step."""

    config: Config
    world: World
    device: mx.Context
    data: DataSet
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
    identity: dict[str, Any]  # what a checkpoint that continues this run must share
    scaled_for_ranks: int  # the ranks at the run's beginning, which the linear scaling rule counts

    def checkpoint_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the arrays."""
        return {
            **self.progress.as_state(),
            "format": FORMAT,
            "identity": self.identity,
            "augmentation": augmentation(self.config),
            "world_size": self.world.size,
            "scaled_for_ranks": self.scaled_for_ranks,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "reduction": self.step.reduction,
            "versions": versions(),
        }


def prepare(config: Config, world: World, data: DataSet | None = None, start: Start | None = None) -> Setup:
    """Load the data, build the network, agree with the other ranks, and stand where the newest checkpoint stands.

    Args:
        data: the data set, where this process has loaded it before.
        start: on every rank, what to continue from instead of a checkpoint on the disk.

    Raises:
        RequestError: on every rank, when the request does not fit the data, the ranks or the checkpoint.
        RunError: on every rank, when a rank differs from rank 0 in configuration, fusion buffer, data or parameters.
    """
    world.require_same("its configuration", as_yaml(config))
    # Ranks that fuse other gradients with one another would add up what does not belong together.
    world.require_same(_FUSION, os.environ.get(_FUSION, "unset"), "set it to the same on every rank, or on none")
    device = world.together(lambda: choose_device(config.run.device, world.local_rank))
    data = _load_once(config, world, data)
    store = CheckpointStore(run_directory(config) / "checkpoints")
    start = start or find(store if config.run.resume == "auto" else None, world)
    batch_size = world.together(lambda: fitting_batch_size(config.train, world.size, start.state, config.run.elastic))
    scaled_for_ranks = start.state["scaled_for_ranks"] if start.state is not None else world.size
    plan, calendar, schedule = world.together(lambda: _plan(config, data, batch_size, world.size, scaled_for_ranks))
    image_size = world.together(lambda: _image_size(config, data))
    classes = data.train.class_names
    world.require_same("its data", f"{len(data.train)} training samples\n{len(data.test)} test samples\n{classes}")

    mean, std = _normalization(config, data, world)
    training_view, evaluation_views = world.together(lambda: _views(config, data, image_size, mean))
    shape = {"channels": data.train.channels, "image_size": image_size, "num_classes": len(classes)}
    layers = world.together(lambda: describe(config.model, **shape))
    sent = sent_by_layer(config.train, world.size, plan.batch_size) if world.size > 1 else {}
    logger.info("%s", summary_table(layers, sent))
    world.together(lambda: use_precision(config.train.precision, device))
    onednn = runs_on_onednn(config.train.precision, device)
    samples = plan.batch_size // config.train.accumulation
    network = build_vgg(config.model, **shape, context=device, seed=config.run.seed, onednn=onednn, samples=samples)
    forward, objective = _graphs(Normalize(mean, std), network, config, device)

    parameters = dict(network.collect_params().items())
    trained = {name: parameter for name, parameter in parameters.items() if parameter.grad_req != "null"}
    optimizer = Optimizer(config.optimizer, trained)
    arrays = named_arrays(parameters, optimizer.states)
    world.require_same("its parameters", "\n".join(f"{name} {a.shape} {a.dtype}" for name, a in arrays.items()))

    step = TrainStep(objective, optimizer, world, config, device, plan.batch_size)
    progress = Progress(MovingAverage(config.train.loss_smoothing))
    run_identity = identity(config, data, plan)
    stand(start, arrays, progress, run_identity, augmentation(config), world, step.reduction)
    return Setup(
        config=config,
        world=world,
        device=device,
        data=data,
        num_classes=len(classes),
        plan=plan,
        calendar=calendar,
        schedule=schedule,
        training_view=training_view,
        evaluation_views=evaluation_views,
        forward=forward,
        step=step,
        arrays=arrays,
        store=store,
        progress=progress,
        identity=run_identity,
        scaled_for_ranks=scaled_for_ranks,
    )


def prepare_input(config: Config, world: World) -> tuple[SamplePlan, TrainingView]:
    """The training samples of each rank, and how they are seen, as a new run has them; without a network.

    Raises:
        RequestError: on every rank, when the request does not fit the data or the ranks.
    """

    data = _load_once(config, world)
    mean, _ = _normalization(config, data, world)

    def prepared() -> tuple[SamplePlan, TrainingView]:
        batch_size = fitting_batch_size(config.train, world.size, None, config.run.elastic)
        plan, _, _ = _plan(config, data, batch_size, world.size, world.size)
        view, _ = _views(config, data, _image_size(config, data), mean)
        return plan, view

    return world.together(prepared)


def _load_once(config: Config, world: World, held: DataSet | None = None) -> DataSet:
    """The data set, in memory once per host; every rank must call this.

    Args:
        held: the data set, where this process has loaded it before.
    """
    return once_per_host(world, lambda: load(config.data, config.run.seed), to_arrays, from_arrays, held)


def _plan(
    config: Config, data: DataSet, batch_size: int, world_size: int, scaled_for_ranks: int
) -> tuple[SamplePlan, Calendar, Schedule]:
    """The sizes and dates of the run, as far as arithmetic knows them."""
    drop_last = config.data.last_batch == "drop"
    plan = make_plan(len(data.train), batch_size, world_size, config.run.seed, drop_last, config.train.accumulation)
    calendar = Calendar.of(config, plan.steps_per_epoch)
    peak = scaled_learning_rate(config.optimizer, scaled_for_ranks)
    return plan, calendar, Schedule(config.schedule, peak, plan.steps_per_epoch, calendar.total_steps)


def _image_size(config: Config, data: DataSet) -> int:
    """The side of the images that the network sees."""
    if config.data.image_size is not None:
        return config.data.image_size
    shape = data.train.image_shape
    if shape is None or shape[0] != shape[1]:
        raise RequestError("the images are not squares of one size; set data.image_size")
    return shape[0]


def _normalization(config: Config, data: DataSet, world: World) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; where they are computed, each rank counts its part of the images."""
    if config.augment.normalize == "published":
        return data.mean, data.std
    if config.augment.normalize == "computed":
        counts = world.sum(world.together(lambda: value_counts(data.train, world.rank, world.size)))
        return world.together(lambda: statistics(counts))
    return (0.0,) * data.train.channels, (1.0,) * data.train.channels


def _views(
    config: Config, data: DataSet, image_size: int, mean: tuple[float, ...]
) -> tuple[TrainingView, dict[str, EvaluationView]]:
    """How the data are seen: in training, and to be measured, by the first part of their metrics' names."""
    fill = tuple(round(255 * value) for value in mean)
    measured = {"eval": EvaluationView(data.test, config.augment, image_size, config.evaluation.crops)}
    if config.evaluation.training_set:
        measured["eval_train"] = EvaluationView(data.train, config.augment, image_size, config.evaluation.crops)
    return TrainingView(data.train, config.augment, image_size, config.run.seed, fill), measured


def _graphs(
    normalize: Normalize, network: nn.HybridBlock, config: Config, device: mx.Context
) -> tuple[nn.HybridSequential, Objective]:
    """The two ways through the network: from images to scores, and from images and targets to the loss."""
    normalize.initialize(ctx=device)
    forward = nn.HybridSequential(prefix="forward_")
    forward.add(normalize, network, nn.HybridLambda(lambda F, scores: F.cast(scores, dtype="float32")))
    objective = Objective(normalize, network, config.train.label_smoothing)
    for graph in (forward, objective):
        graph.hybridize(static_alloc=True, static_shape=True)
    return forward, objective
