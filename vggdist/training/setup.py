"""Set-up of a training from its configuration, checked over all ranks."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.schema import FORMAT, CheckpointState, PartIdentity
from vggdist.checkpoints.start import Start
from vggdist.checkpoints.state import named_arrays
from vggdist.checkpoints.store import CheckpointStore
from vggdist.collectives.world import World, choose_device, choose_precision, versions
from vggdist.config.load import as_yaml, run_directory
from vggdist.config.schema import Config
from vggdist.data.augment import EvaluationView, TrainingView
from vggdist.data.dataset import DataSet
from vggdist.data.sampler import SamplePlan
from vggdist.diagnosis.gpu_stack import require_compatible
from vggdist.models.layers import summary_table
from vggdist.models.model import Model
from vggdist.models.precision import onednn_precision, use_precision
from vggdist.models.spec import ModelSpec
from vggdist.training import pretrained
from vggdist.training.evaluation import reserve_memory
from vggdist.training.gradient_exchange import sent_by_layer
from vggdist.training.inputs import Inputs, load_data, make_inputs, model_spec
from vggdist.training.metrics import MovingAverage
from vggdist.training.optimizer import Optimizer
from vggdist.training.progress import Progress
from vggdist.training.resume import batch_size_of, find, identity, restore, settings
from vggdist.training.schedule import Schedule, scaled_learning_rate
from vggdist.training.step import Objective, TrainStep
from vggdist.training.triggers import Triggers
from vggdist.training.weight_average import WeightAverage
from vggdist.training.whitening import whiten

logger = logging.getLogger(__name__)

_FUSION = "HOROVOD_FUSION_THRESHOLD"


@dataclass
class TrainingState:
    """Progress and arrays of a training, and what determines its further course.

    Attributes:
        progress: counters and metrics.
        arrays: of the network, the optimizer and the average of the weights, by name in a checkpoint.
        triggers: what is due after which step.
        schedule: the learning rate of each step.
        scaled_for_ranks: the number of ranks at the start of the run, for the linear scaling rule.
        patience: epochs without a better evaluation after which the run ends; None: never.
        loaded: names of the layers that were loaded from model.pretrained when the run began.
    """

    progress: Progress
    arrays: dict[str, mx.nd.NDArray]
    triggers: Triggers
    schedule: Schedule
    scaled_for_ranks: int
    patience: float | None
    loaded: Sequence[str]

    @property
    def is_over(self) -> bool:
        """Whether the last step is done, or the run is out of patience."""
        return self.progress.step >= self.triggers.total_steps or self.is_out_of_patience

    @property
    def is_out_of_patience(self) -> bool:
        """Whether no evaluation in the epochs of patience, including one at this step before the last, was better."""
        progress, triggers = self.progress, self.triggers
        if self.patience is None or progress.evaluated_step != progress.step or progress.step >= triggers.total_steps:
            return False
        return progress.step - (progress.best_step or 0) >= self.patience * triggers.steps_per_epoch


@dataclass
class Training:
    """Data, model, training state and step."""

    config: Config
    world: World
    device: mx.Context
    inputs: Inputs
    model: Model
    state: TrainingState
    average: WeightAverage
    step: TrainStep
    store: CheckpointStore

    @property
    def is_evaluated(self) -> bool:
        """Whether the evaluation after the newest step is done, including, at the end of the run, the final views."""
        progress = self.state.progress
        parts = self.inputs.final_views if self.state.is_over else ()
        evaluated = {name.partition("/")[0] for name in progress.evaluation_metrics}
        return progress.evaluated_step == progress.step and evaluated.issuperset(parts)

    @property
    def is_finished(self) -> bool:
        """Whether the run is over and evaluated."""
        return self.state.is_over and self.is_evaluated

    def checkpoint_state(self) -> CheckpointState:
        """The content of a checkpoint apart from the arrays."""
        return {
            **self.state.progress.as_state(),
            "format": FORMAT,
            "model": self.model.spec.as_json(),
            "data": {name: cast(PartIdentity, part) for name, part in self.inputs.data.identity.items()},
            "identity": identity(self.config, self.inputs.plan),
            "settings": settings(self.config),
            "loaded": list(self.state.loaded),
            "world_size": self.world.size,
            "scaled_for_ranks": self.state.scaled_for_ranks,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "reduction": self.step.reduction,
            "loss_scale": self.step.loss_scale.state(),
            "versions": versions(),
        }


def prepare(config: Config, world: World, data: DataSet | None = None, start: Start | None = None) -> Training:
    """Load the data, build the network, compare the ranks, and restore the newest checkpoint.

    Args:
        data: the data set, if this process has loaded it before.
        start: on every rank, what to continue from instead of a checkpoint on the disk.

    Raises:
        RequestError: on every rank, when the request does not fit the data, the ranks or the checkpoint.
        RunError: on every rank, when a rank differs from rank 0 in configuration, fusion buffer, data or parameters.
    """
    world.require_same("its configuration", as_yaml(config))
    # With different thresholds the ranks would fuse different gradients, and sum the wrong ones.
    world.require_same(_FUSION, os.environ.get(_FUSION, "unset"), "set it to the same on every rank, or on none")
    device = world.together(lambda: choose_device(config.run.device, world.local_rank))
    require_compatible(world, device, config.run.elastic)
    config = replace(config, train=replace(config.train, precision=choose_precision(config.train.precision, device, world)))
    data = load_data(config, world, data)
    store = CheckpointStore(run_directory(config) / "checkpoints")
    start = start or find(store if config.run.resume == "auto" else None, world)
    resumed = ModelSpec.from_json(start.state["model"]) if start.state is not None else None
    weights = pretrained.find(config.model.pretrained, world, start.state)
    spec = model_spec(config, data, world, resumed, weights)
    batch_size = world.together(lambda: batch_size_of(config, world.size, start.state))
    inputs = world.together(lambda: make_inputs(config, data, spec, batch_size, world.size))
    model = _build(config, spec, inputs.plan, device, world)
    if start.state is None:
        whiten(model, EvaluationView(data.train, spec.resize, spec.image_size), world)
    loaded = pretrained.load(weights, model, world) if start.state is None else start.state["loaded"]
    trained = {name: one for name, one in model.parameters.items() if one.grad_req != "null"}
    backbone = pretrained.parameters_of(loaded, model)
    optimizer = world.together(lambda: Optimizer(config.optimizer, trained, backbone))
    average = WeightAverage(config.optimizer.ema_decay, model.parameters)
    arrays = named_arrays(model.parameters, optimizer.states, average.arrays)
    state = world.together(lambda: _state(config, arrays, inputs.plan, start, world.size, loaded))
    world.require_same("its parameters", "\n".join(f"{name} {a.shape} {a.dtype}" for name, a in state.arrays.items()))
    objective = Objective(model, config.train.label_smoothing, _class_weights(config, data))
    step = TrainStep(objective, optimizer, average, world, config, device, inputs.plan.batch_size)
    training = Training(config, world, device, inputs, model, state, average, step, store)
    restore(start, training.checkpoint_state(), state.arrays, state.progress, world)
    if start.state is not None:
        step.loss_scale.restore(start.state["loss_scale"])
    if device.device_type == "gpu":  # on a CPU a pass is slow, and memory is ample
        shape = (config.evaluation.images_at_once, spec.image_size, spec.image_size, spec.channels)
        world.together(lambda: reserve_memory(model.forward, shape, device))
    return training


def prepare_input(config: Config, world: World) -> tuple[SamplePlan, TrainingView]:
    """The sample plan and the training view of a new run, without a network.

    Raises:
        RequestError: on every rank, when the request does not fit the data or the ranks.
    """
    data = load_data(config, world)
    spec = model_spec(config, data, world)
    batch_size = world.together(lambda: batch_size_of(config, world.size, None))
    inputs = world.together(lambda: make_inputs(config, data, spec, batch_size, world.size))
    return inputs.plan, inputs.training_view


def _build(config: Config, spec: ModelSpec, plan: SamplePlan, device: mx.Context, world: World) -> Model:
    sent = sent_by_layer(config.train, world.size, plan.batch_size) if world.size > 1 else {}
    logger.info("%s", summary_table(spec.layers(), sent))
    world.together(lambda: use_precision(config.train.precision, device))
    onednn = onednn_precision(config.train.precision, device)
    samples = 0 if config.augment.progressive else plan.batch_size // config.train.accumulation
    return Model(spec, device, seed=config.run.seed, onednn=onednn, samples=samples)


def _class_weights(config: Config, data: DataSet) -> NDArray[np.float32] | None:
    """Weight of each class in the loss, 1 in the mean over the training samples; None: all are equal.

    ``balanced``: N / (K n_c), where n_c of the N training samples are of a class, and K classes have samples (King & Zeng
    2001, as in scikit-learn). So each class has the same share of the loss over the training set.
    """
    if config.train.class_weights == "none":
        return None
    counts = np.bincount(data.train.labels, minlength=len(data.train.class_names))
    return (len(data.train) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _state(
    config: Config,
    arrays: dict[str, mx.nd.NDArray],
    plan: SamplePlan,
    start: Start,
    world_size: int,
    loaded: Sequence[str],
) -> TrainingState:
    """The initial state of a run."""
    scaled_for_ranks = start.state["scaled_for_ranks"] if start.state is not None else world_size
    triggers = Triggers.of(config, plan.steps_per_epoch)
    peak = scaled_learning_rate(config.optimizer, scaled_for_ranks)
    return TrainingState(
        progress=Progress(MovingAverage(config.train.loss_smoothing)),
        arrays=arrays,
        triggers=triggers,
        schedule=Schedule(config.schedule, peak, plan.steps_per_epoch, triggers.total_steps),
        scaled_for_ranks=scaled_for_ranks,
        patience=config.train.patience,
        loaded=loaded,
    )
