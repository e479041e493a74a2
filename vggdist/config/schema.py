"""Everything that a run can be asked for, as frozen dataclasses.

The docstring under a field is its text in ``--help``; the default is what a run does when nothing is said. A value that
makes no sense alone is refused here with a ``ValueError`` that names its key; what can only be judged with the data or the
ranks at hand (a batch larger than the data set, say) is refused where both are known, by a
:class:`~vggdist.config.errors.RequestError`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vggdist.config.duration import parse_duration
from vggdist.config.errors import require
from vggdist.config.images import AugmentConfig, DataConfig
from vggdist.config.network import ModelConfig
from vggdist.config.optimizers import OPTIMIZERS
from vggdist.config.options import Choice, PathText, UnboundedFloat

_NAME = "a folder's name: printable, at most 200 bytes, without '/', and not beginning with '.' or '-'"


def _is_name(text: str) -> bool:
    return text.isprintable() and "/" not in text and text[0] not in ".- " and text[-1] != " " and len(text.encode()) <= 200


@dataclass(frozen=True)
class DeviceConfig:
    """On what a command computes."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: the GPU of this local rank when there is one that MXNet can run on, else the CPU."""
    deterministic: bool = True
    """On a GPU take only algorithms of cuDNN that repeat bit for bit. false: the fastest."""


@dataclass(frozen=True)
class ExecutionConfig(DeviceConfig):
    """On what a command computes, and how several ranks are watched."""

    timeout: UnboundedFloat = 120.0
    """Seconds after which one of several ranks that does not move, or gives no sign of life, ends the job on every rank. The
    first two steps, and the first two batches of an evaluation, may take five times as long: graphs are built then."""

    def __post_init__(self) -> None:
        require(self.timeout >= 1, "run.timeout", self.timeout, "at least 1 second")


@dataclass(frozen=True)
class RunConfig(ExecutionConfig):
    """Where a run lives, how it starts, and on what it computes."""

    seed: int = 0
    """Seed of everything random: initial parameters, order of samples, augmentation, dropout."""
    name: str = ""
    """Name of the run; its folder is <run.directory>/<run.name>. Empty: that of the configuration file without its ending,
    else <model.name>-<data.name>."""
    directory: PathText = "runs"
    """Folder that holds the runs."""
    resume: Literal["auto", "never"] = "auto"
    """auto: continue from the newest whole checkpoint of this run, if there is one. never: start anew; a folder that
    already holds checkpoints is refused, naming what would be overwritten, unless run.overwrite is true."""
    overwrite: bool = False
    """With run.resume never: remove the checkpoints, logs and results of the earlier run of this name."""
    log_every: int = 10
    """Steps between two reports of the training metrics (the only time at which the loop reads their values)."""
    max_time: str | None = None
    """Wall-clock limit since the start of the command, HH:MM:SS or D-HH:MM:SS: shortly before it the run saves a checkpoint
    and ends with exit code 75. null: none."""
    elastic: bool = False
    """Go on in the surviving processes when ranks die, join or leave (docs/elastic.md). Needs horovodrun with
    --host-discovery-script, and Gloo; takes twice the memory of network and optimizer on each rank's host."""
    layer_norms: bool = False
    """Report with the training metrics the norm of each layer's gradient and weights, for TensorBoard."""
    drift_steps: int | None = None
    """Steps between two comparisons of the ranks' parameters; a difference ends the run. null: each epoch; 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**32, "run.seed", self.seed, "a whole number from 0 to 4294967295")
        require(self.name == "" or _is_name(self.name), "run.name", self.name, _NAME)
        require(self.log_every >= 1, "run.log_every", self.log_every, "at least 1 step")
        if self.max_time is not None:
            try:
                parse_duration(self.max_time)
            except ValueError as error:
                raise ValueError(f"run.max_time: {error}") from None
        require(self.drift_steps is None or self.drift_steps >= 0, "run.drift_steps", self.drift_steps, "0 or more steps")


@dataclass(frozen=True)
class WorldConfig:
    """What MXNet, OpenMP, Open MPI and Horovod find when they start (docs/performance.md)."""

    preset: Literal["auto", "cpu", "gpu", "none"] = "auto"
    """Set of environment variables; one that has a value already keeps it. auto: gpu where there is one that MXNet can run on
    and run.device is not cpu, else cpu. none: no variable is set, no rank is bound."""
    bind: bool = True
    """With the preset cpu: give each rank of a host cores of its own, where they divide and no launcher has done it. With the
    preset gpu: keep each rank to the cores near its GPU."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How gradients change the parameters."""

    name: Annotated[str, Choice({name: info.text for name, info in OPTIMIZERS.items()})] = "sgd"
    """The rule."""
    learning_rate: float = 0.05
    """Peak learning rate."""
    scale_learning_rate: bool = False
    """Linear scaling rule: multiply the learning rate by the number of ranks (Goyal et al. 2017, section 2.1)."""
    momentum: float = 0.9
    """Momentum of sgd, nag and lars."""
    beta1: float = 0.9
    """Decay of Adam's mean of gradients."""
    beta2: float = 0.999
    """Decay of Adam's mean of squared gradients."""
    epsilon: float = 1e-8
    """Term that keeps Adam's and LARS's divisions finite."""
    lars_trust: float = 0.001
    """Trust coefficient eta of LARS."""
    weight_decay: float = 5e-4
    """Weight decay of convolution and fully connected weights."""
    decay_all: bool = False
    """Apply weight decay to biases and batch-norm parameters as well."""
    backbone_rate: float = 1.0
    """Learning rate of the layers that are taken from model.pretrained, as a multiple of that of the others."""
    clip_norm: float | None = None
    """Scale the gradient down to this global norm where it is larger; null: never."""

    def __post_init__(self) -> None:
        require(self.name in OPTIMIZERS, "optimizer.name", self.name, f"one of {', '.join(OPTIMIZERS)}")
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a positive number")
        for key in ("momentum", "beta1", "beta2"):
            require(0 <= getattr(self, key) < 1, f"optimizer.{key}", getattr(self, key), "0 or more and below 1")
        for key in ("epsilon", "lars_trust"):
            require(getattr(self, key) > 0, f"optimizer.{key}", getattr(self, key), "a positive number")
        require(self.backbone_rate > 0, "optimizer.backbone_rate", self.backbone_rate, "a positive number")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm is None or self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "a positive number")

    @property
    def states(self) -> tuple[str, ...]:
        """What is remembered of each parameter; SGD without momentum remembers nothing."""
        return () if self.name == "sgd" and self.momentum == 0 else OPTIMIZERS[self.name].states


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step."""

    name: Literal["constant", "step", "cosine", "polynomial", "one_cycle"] = "one_cycle"
    """Course of the learning rate after the warm-up. one_cycle rises and falls along cosines (Smith & Topin 2018)."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate rises linearly from schedule.warmup_factor times its value."""
    warmup_factor: float = 0.1
    """Share of the learning rate at which the warm-up starts."""
    milestones: tuple[float, ...] = ()
    """Epochs at which the step schedule multiplies the learning rate by schedule.gamma."""
    gamma: float = 0.1
    """Factor of the step schedule."""
    power: float = 2.0
    """Exponent of the polynomial schedule."""
    final_factor: float = 0.0
    """Share of the learning rate at the end of the cosine, polynomial and one_cycle schedules."""
    rise: float = 0.3
    """Share of the steps over which the one_cycle schedule rises."""

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "0 or more epochs")
        require(0 <= self.warmup_factor <= 1, "schedule.warmup_factor", self.warmup_factor, "a share from 0 to 1")
        require(list(self.milestones) == sorted(self.milestones), "schedule.milestones", self.milestones, "rising epochs")
        require(
            self.name != "step" or len(self.milestones) > 0,
            "schedule.milestones",
            self.milestones,
            "at least one epoch with schedule.name step",
        )
        require(self.gamma > 0, "schedule.gamma", self.gamma, "a positive number")
        require(self.power > 0, "schedule.power", self.power, "a positive number")
        require(0 <= self.final_factor <= 1, "schedule.final_factor", self.final_factor, "a share from 0 to 1")
        require(0 < self.rise < 1, "schedule.rise", self.rise, "a share between 0 and 1")


@dataclass(frozen=True)
class ArithmeticConfig:
    """How a network computes."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which convolutions and fully connected layers compute; parameters stay float32. bfloat16: on CPUs with AVX-512,
    faster where they have avx512_bf16. float16: on GPUs of compute capability 7.0 and up (docs/gpu.md)."""


@dataclass(frozen=True)
class TrainConfig(ArithmeticConfig):
    """The length of the training and what a step is."""

    epochs: float = 20.0
    """Passes over the training set; a fraction ends within an epoch."""
    steps: int | None = None
    """Length in steps instead of epochs."""
    batch_size: int = 32
    """Samples that each rank takes in one step; the global batch is this times the number of ranks."""
    global_batch_size: int | None = None
    """Samples of one step over all ranks, instead of train.batch_size."""
    accumulation: int = 1
    """Parts into which each rank's batch is cut; their gradients are accumulated and reduced once."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over all classes (Szegedy et al. 2016)."""
    compression: Literal["none", "fp16"] = "none"
    """Type in which gradients travel between the ranks."""
    factors: Literal["auto", "always", "never"] = "auto"
    """Whether fully connected layers send two thin matrices, from which every rank computes the gradient of the global batch,
    in place of the gradient. auto: those for which that takes less time, where the ranks are on several hosts."""
    network_bandwidth: float = 10.0
    """Gbit/s between two hosts, by which train.factors auto chooses; bench allreduce measures it."""
    bucket_cap_mb: UnboundedFloat | None = None
    """Size in MiB from which a bucket of gradients is full and travels, beside the rest of the backward pass. 0: each gradient
    by itself; .inf: all of them together, after it. null: 25 on GPUs; on CPUs 1 where the ranks are on several hosts, else
    .inf."""
    loss_scale: Literal["dynamic"] | float | None = None
    """Factor of the loss before the backward pass, by which the update divides the gradients again. dynamic: it starts at
    65,536 (1,024 with train.compression fp16), is halved when a gradient overflows, and that step's update is left out; it is
    doubled after 2,000 steps without. null: dynamic with train.precision float16, else 1, or 1,024 with train.compression
    fp16."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: samples of rare classes count more in the training loss, so that each class has the same share of it: the loss
    of a sample is multiplied by N / (K n) for n of N training samples in its class, and K classes."""
    patience: float | None = None
    """Epochs without a better evaluation (checkpoint.best_metric, of the validation set where there is one) after which the
    run ends, at the next evaluation (evaluation.every_epochs). null: it goes to its end."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What a loss or gradient that is not finite does: stop ends the run and names step and rank; skip leaves out this
    step's update on all ranks."""
    loss_smoothing: float = 0.01
    """Weight of the newest step in the moving average of the loss (train/loss_moving_average). It starts at the loss of the
    first step, as in the MXNet tutorials, so with the default it stands near that for about a hundred steps."""

    @property
    def has_dynamic_loss_scale(self) -> bool:
        """Whether the loss scale follows what overflows."""
        return self.loss_scale == "dynamic" or self.loss_scale is None and self.precision == "float16"

    @property
    def can_skip(self) -> bool:
        """Whether a step may be left out, which takes a copy of what it changes."""
        return self.nonfinite == "skip" or self.has_dynamic_loss_scale

    def __post_init__(self) -> None:
        require(0 < self.epochs < float("inf"), "train.epochs", self.epochs, "a positive number")
        require(self.steps is None or self.steps >= 1, "train.steps", self.steps, "at least 1 step")
        require(self.batch_size >= 1, "train.batch_size", self.batch_size, "at least 1 sample")
        size = self.global_batch_size
        require(size is None or size >= 1, "train.global_batch_size", size, "at least 1 sample")
        require(self.patience is None or self.patience > 0, "train.patience", self.patience, "a positive number of epochs")
        require(self.accumulation >= 1, "train.accumulation", self.accumulation, "at least 1 part")
        scale = self.loss_scale
        number = scale is None or scale == "dynamic" or scale > 0
        require(number, "train.loss_scale", scale, "dynamic, a positive number, or null")
        bandwidth = self.network_bandwidth
        require(0 < bandwidth < float("inf"), "train.network_bandwidth", bandwidth, "a positive number")
        cap = self.bucket_cap_mb
        require(cap is None or cap >= 0, "train.bucket_cap_mb", cap, "0 MiB or more")
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 or more and below 1")
        require(0 < self.loss_smoothing <= 1, "train.loss_smoothing", self.loss_smoothing, "above 0 and at most 1")


@dataclass(frozen=True)
class MeasuringConfig:
    """How a network is measured."""

    batch_size: int = 128
    """Images that a rank evaluates at once; with several crops, each counts."""
    crops: Literal[1, 5, 10] = 1
    """Crops of each image whose softmax is averaged: 1: the centre; 5: this and the corners; 10: these and their mirror
    images (Krizhevsky et al. 2012, section 4.1). Several need augment.resize above the image size."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "evaluation.batch_size", self.batch_size, "at least 1 sample")

    @property
    def images_at_once(self) -> int:
        """Images in one forward pass: the crops of a sample stay together."""
        return max(1, self.batch_size // self.crops) * self.crops


@dataclass(frozen=True)
class EvaluationConfig(MeasuringConfig):
    """When the network is measured, and on what."""

    every_epochs: int = 1
    """Epochs between two evaluations of the test set; it is always evaluated at the end. 0: only at the end."""
    training_set: bool = False
    """Evaluate the training set as well (without augmentation)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.every_epochs >= 0, "evaluation.every_epochs", self.every_epochs, "0 or more epochs")


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of the run."""

    every_epochs: int = 1
    """Epochs between two checkpoints; one is always written at the end. 0: only at the end."""
    every_steps: int | None = None
    """Steps between two checkpoints, instead of epochs."""
    keep_last: int = 2
    """Newest checkpoints that are kept, beside the best."""
    keep_every: int = 0
    """Checkpoints whose step is a multiple of this number are kept for good. 0: none is."""
    best_metric: Literal["top1", "top5", "loss", "macro_f1", "auc"] = "top1"
    """Metric by which the best checkpoint is kept: of the validation set (data.validation), else of the test set."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, "checkpoint.every_epochs", self.every_epochs, "0 or more epochs")
        steps = self.every_steps
        require(steps is None or steps >= 1, "checkpoint.every_steps", steps, "at least 1 step")
        require(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "at least 1 checkpoint")
        require(self.keep_every >= 0, "checkpoint.keep_every", self.keep_every, "0 or more steps")


@dataclass(frozen=True)
class Config:
    """A whole run."""

    run: RunConfig = field(default_factory=RunConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        expected = "null with evaluation.every_epochs 0, which leaves one evaluation, at the end"
        waits = self.train.patience is not None
        require(not waits or self.evaluation.every_epochs > 0, "train.patience", self.train.patience, expected)
        rate = self.optimizer.backbone_rate
        begins_at_random = self.model.pretrained is None
        require(rate == 1 or not begins_at_random, "optimizer.backbone_rate", rate, "1 without model.pretrained")
        require(not self.model.freeze or not begins_at_random, "model.freeze", self.model.freeze, "0 without model.pretrained")
