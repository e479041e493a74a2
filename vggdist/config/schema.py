"""Schema of a run's configuration, as frozen dataclasses.

The docstring under a field is its text in ``--help``. A value that is invalid by itself raises ``ValueError`` here, with its
key. A value that is invalid for the data or the ranks, such as a batch larger than the data set, raises
:class:`~vggdist.config.errors.RequestError` where those are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from vggdist.config.duration import parse_duration
from vggdist.config.errors import require
from vggdist.config.evaluation import EvaluationConfig
from vggdist.config.images import AugmentConfig, DataConfig
from vggdist.config.network import ModelConfig
from vggdist.config.optimizers import OPTIMIZERS
from vggdist.config.options import Choice, PathText, UnboundedFloat

_NAME = "a folder name: printable, at most 200 bytes, without '/', not starting with '.' or '-'"


def _is_name(text: str) -> bool:
    return text.isprintable() and "/" not in text and text[0] not in ".- " and text[-1] != " " and len(text.encode()) <= 200


@dataclass(frozen=True)
class DeviceConfig:
    """The device of a command."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device. auto: the GPU of the local rank if MXNet can run on it, else the CPU."""
    deterministic: bool = True
    """Use only deterministic cuDNN algorithms on GPUs. false: the fastest ones."""


@dataclass(frozen=True)
class ExecutionConfig(DeviceConfig):
    """The device of a command, and the watchdog of its ranks."""

    timeout: UnboundedFloat = 120.0
    """Watchdog timeout in seconds: a rank that makes no progress or sends no heartbeat for this time ends the job on all
    ranks. It is five times as long for the first two steps and the first two evaluation batches, in which graphs are built."""

    def __post_init__(self) -> None:
        require(self.timeout >= 1, "run.timeout", self.timeout, "at least 1 second")


@dataclass(frozen=True)
class RunConfig(ExecutionConfig):
    """The run: name, folder, seed, resumption, logging and limits."""

    seed: int = 0
    """Random seed of initial parameters, sample order, augmentation and dropout."""
    name: str = ""
    """Name of the run; its folder is <run.directory>/<run.name>. Empty: the name of the configuration file without its suffix,
    else <model.name>-<data.name>."""
    directory: PathText = "runs"
    """Parent folder of the runs."""
    resume: Literal["auto", "never"] = "auto"
    """auto: resume from the newest complete checkpoint of this run, if there is one. never: start from scratch; it is an error
    if the run's folder has checkpoints, unless run.overwrite is true."""
    overwrite: bool = False
    """With run.resume never: remove the checkpoints, logs and results of the earlier run of this name."""
    log_every: int = 10
    """Steps between two reports of the training metrics. The training loop reads their values only then."""
    max_time: str | None = None
    """Wall-clock limit since the start of the command, HH:MM:SS or D-HH:MM:SS. Shortly before it, the run saves a checkpoint
    and ends with exit code 75. null: no limit."""
    elastic: bool = False
    """Continue in the remaining processes when ranks fail, join or leave (docs/elastic.md). Requires horovodrun with
    --host-discovery-script, and Gloo. Doubles the memory for network and optimizer on each rank's host."""
    layer_norms: bool = False
    """Report the norms of each layer's gradient and weights to TensorBoard with the training metrics."""
    drift_steps: int | None = None
    """Steps between two comparisons of the ranks' parameters; a difference ends the run. null: each epoch; 0: never."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.seed < 2**32, "run.seed", self.seed, "an integer from 0 to 4294967295")
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
    """Environment of MXNet, OpenMP, Open MPI and Horovod (docs/performance.md)."""

    preset: Literal["auto", "cpu", "gpu", "none"] = "auto"
    """Preset of environment variables; variables that are already set are kept. auto: gpu if MXNet can run on a GPU and
    run.device is not cpu, else cpu. none: set no variables and bind no ranks."""
    bind: bool = True
    """CPU affinity. With preset cpu: bind each rank of a host to its own cores, if they divide evenly and the launcher has not
    bound the ranks. With preset gpu: bind each rank to the cores near its GPU."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer."""

    name: Annotated[str, Choice({name: info.text for name, info in OPTIMIZERS.items()})] = "sgd"
    """Update rule."""
    learning_rate: float = 0.05
    """Peak learning rate."""
    scale_learning_rate: bool = False
    """Linear scaling rule: multiply the learning rate by the number of ranks (Goyal et al. 2017, section 2.1)."""
    momentum: float = 0.9
    """Momentum of sgd, nag, lars and muon."""
    beta1: float = 0.9
    """Decay rate of Adam's first moment."""
    beta2: float = 0.999
    """Decay rate of Adam's second moment."""
    epsilon: float = 1e-8
    """Constant in the denominators of Adam and LARS for numerical stability."""
    lars_trust: float = 0.001
    """Trust coefficient eta of LARS."""
    muon_iterations: int = 5
    """Newton-Schulz iterations of an update of muon."""
    weight_decay: float = 5e-4
    """Weight decay of convolution and fully connected weights. muon decays no convolution before batch normalisation."""
    decay_all: bool = False
    """Apply weight decay to biases and batch-norm parameters as well."""
    backbone_rate: float = 1.0
    """Factor of the learning rate of the layers from model.pretrained."""
    groups: tuple[tuple[str, float, float], ...] = ()
    """Groups of parameters: [pattern, factor of the learning rate, factor of the weight decay] of each, for instance
    [["*_beta", 64, 0], ["output_*", 0.1, 1]]. The first pattern that matches a name applies (docs/optimizers.md)."""
    clip_norm: float | None = None
    """Maximum global norm of the gradient; larger gradients are scaled down. null: no clipping."""
    ema_decay: float = 0.0
    """Decay rate, per step, of an exponential moving average of the weights, which evaluations, predictions and exports use.
    0: no average (docs/optimizers.md)."""

    def __post_init__(self) -> None:
        require(self.name in OPTIMIZERS, "optimizer.name", self.name, f"one of {', '.join(OPTIMIZERS)}")
        require(self.learning_rate > 0, "optimizer.learning_rate", self.learning_rate, "a positive number")
        for key in ("momentum", "beta1", "beta2", "ema_decay"):
            require(0 <= getattr(self, key) < 1, f"optimizer.{key}", getattr(self, key), "0 or more and below 1")
        for key in ("epsilon", "lars_trust"):
            require(getattr(self, key) > 0, f"optimizer.{key}", getattr(self, key), "a positive number")
        require(self.muon_iterations >= 1, "optimizer.muon_iterations", self.muon_iterations, "at least 1 iteration")
        for group in self.groups:
            require(all(0 <= factor for factor in group[1:]), "optimizer.groups", group, "a pattern and factors of 0 or more")
        require(self.backbone_rate > 0, "optimizer.backbone_rate", self.backbone_rate, "a positive number")
        require(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        require(self.clip_norm is None or self.clip_norm > 0, "optimizer.clip_norm", self.clip_norm, "a positive number")

    @property
    def states(self) -> tuple[str, ...]:
        """Names of the state arrays per parameter; SGD without momentum has none."""
        return () if self.name == "sgd" and self.momentum == 0 else OPTIMIZERS[self.name].states


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate as a function of the step."""

    name: Literal["constant", "step", "cosine", "polynomial", "one_cycle"] = "one_cycle"
    """Schedule after the warm-up. one_cycle rises and falls along cosines (Smith & Topin 2018)."""
    warmup_epochs: float = 0.0
    """Epochs of linear warm-up, starting at schedule.warmup_factor times the learning rate."""
    warmup_factor: float = 0.1
    """Initial fraction of the learning rate in the warm-up."""
    milestones: tuple[float, ...] = ()
    """step: epochs at which the learning rate is multiplied by schedule.gamma."""
    gamma: float = 0.1
    """step: factor of the learning rate at each milestone."""
    power: float = 2.0
    """polynomial: exponent."""
    final_factor: float = 0.0
    """cosine, polynomial, one_cycle: final fraction of the learning rate."""
    rise: float = 0.3
    """one_cycle: fraction of the steps in which the learning rate rises."""

    def __post_init__(self) -> None:
        require(self.warmup_epochs >= 0, "schedule.warmup_epochs", self.warmup_epochs, "0 or more epochs")
        require(0 <= self.warmup_factor <= 1, "schedule.warmup_factor", self.warmup_factor, "a fraction from 0 to 1")
        require(list(self.milestones) == sorted(self.milestones), "schedule.milestones", self.milestones, "ascending epochs")
        require(
            self.name != "step" or len(self.milestones) > 0,
            "schedule.milestones",
            self.milestones,
            "at least one epoch with schedule.name step",
        )
        require(self.gamma > 0, "schedule.gamma", self.gamma, "a positive number")
        require(self.power > 0, "schedule.power", self.power, "a positive number")
        require(0 <= self.final_factor <= 1, "schedule.final_factor", self.final_factor, "a fraction from 0 to 1")
        require(0 < self.rise < 1, "schedule.rise", self.rise, "a fraction above 0 and below 1")


Precision = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class ArithmeticConfig:
    """Arithmetic of a network."""

    precision: Precision = "float32"
    """Data type of convolutions and fully connected layers; parameters stay float32. bfloat16: on CPUs with AVX-512, faster
    with avx512_bf16. float16: on GPUs of compute capability 7.0 or higher (docs/gpu.md). auto: bfloat16 if the CPU of every
    rank has avx512_bf16, else float32."""


@dataclass(frozen=True)
class TrainConfig(ArithmeticConfig):
    """Length of the training, batches, gradient exchange and loss."""

    epochs: float = 20.0
    """Epochs to train; may be fractional."""
    steps: int | None = None
    """Steps to train, instead of train.epochs."""
    batch_size: int = 32
    """Samples per rank and step; the global batch size is this times the number of ranks."""
    global_batch_size: int | None = None
    """Samples per step over all ranks, instead of train.batch_size."""
    accumulation: int = 1
    """Micro-batches per step: each rank's batch is split into this many, and their accumulated gradients are reduced once."""
    label_smoothing: float = 0.0
    """Fraction of the target that is distributed evenly over all classes (Szegedy et al. 2016)."""
    compression: Literal["none", "fp16"] = "none"
    """Data type of gradients in the allreduce; none: that of the parameters."""
    factors: Literal["auto", "always", "never"] = "auto"
    """Send two thin matrices per fully connected layer instead of its gradient; every rank computes the gradient of the global
    batch from them. auto: for the layers in which this is faster; on a host with GPUs none."""
    network_bandwidth: float = 10.0
    """Bandwidth between two hosts in Gbit/s, used by train.factors auto; bench allreduce measures it."""
    bucket_cap_mb: UnboundedFloat | None = None
    """Size of a gradient bucket in MiB. A full bucket is reduced while the backward pass continues. 0: each gradient by
    itself; .inf: all gradients in one bucket, after the backward pass. null: 25 on GPUs; on CPUs 1 if the ranks are on several
    hosts, else .inf."""
    loss_scale: Literal["dynamic"] | float | None = None
    """Factor of the loss before the backward pass; the update divides the gradients by it. dynamic: starts at 65,536 (1,024
    with train.compression fp16), is halved when a gradient overflows, which also skips the update, and is doubled after 2,000
    steps without overflow. null: dynamic with train.precision float16, else 1, or 1,024 with train.compression fp16."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: weight the training loss so that all classes contribute equally: by N / (K n) for a class with n of the N
    training samples, and K classes."""
    patience: float | None = None
    """Early stopping: epochs without improvement of checkpoint.best_metric (of the validation set, else of the test set) after
    which the run ends, at an evaluation (evaluation.every_epochs). null: no early stopping."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """Action for a loss or gradient that is not finite. stop: end the run and report step and rank. skip: skip the update of
    this step on all ranks."""
    loss_smoothing: float = 0.01
    """Weight of the current step in the moving average of the loss (train/loss_moving_average). The average starts at the loss
    of the first step, as in the MXNet tutorials, so with the default it stays close to it for about a hundred steps."""

    @property
    def has_dynamic_loss_scale(self) -> bool:
        """Whether the loss scale adapts to overflows."""
        return self.loss_scale == "dynamic" or self.loss_scale is None and self.precision == "float16"

    @property
    def can_skip(self) -> bool:
        """Whether a step's update may be skipped; this requires a copy of the state that it changes."""
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
class CheckpointConfig:
    """When checkpoints are written, and which are kept."""

    every_epochs: int = 1
    """Epochs between two checkpoints; there is always one at the end. 0: none after an epoch."""
    every_steps: int | None = None
    """Steps between two checkpoints, instead of checkpoint.every_epochs."""
    every_minutes: float | None = 10.0
    """Another checkpoint is written when the newest is older than this, in minutes. A fault then costs no more work, however
    long an epoch is. null: off."""
    keep_last: int = 2
    """Number of newest checkpoints to keep, in addition to the best."""
    keep_every: int = 0
    """Keep every checkpoint whose step is a multiple of this number. 0: off."""
    best_metric: Literal["top1", "top5", "loss", "macro_f1", "auc"] = "top1"
    """Metric that selects the best checkpoint: of the validation set (data.validation) if there is one, else of the test
    set."""

    def __post_init__(self) -> None:
        require(self.every_epochs >= 0, "checkpoint.every_epochs", self.every_epochs, "0 or more epochs")
        steps = self.every_steps
        require(steps is None or steps >= 1, "checkpoint.every_steps", steps, "at least 1 step")
        minutes = self.every_minutes
        require(
            minutes is None or 0 < minutes < float("inf"), "checkpoint.every_minutes", minutes, "a positive number, or null"
        )
        require(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "at least 1 checkpoint")
        require(self.keep_every >= 0, "checkpoint.keep_every", self.keep_every, "0 or more steps")


@dataclass(frozen=True)
class Config:
    """Configuration of a run."""

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
        expected = "null with evaluation.every_epochs 0, because the only evaluation is then at the end"
        waits = self.train.patience is not None
        require(not waits or self.evaluation.every_epochs > 0, "train.patience", self.train.patience, expected)
        rate = self.optimizer.backbone_rate
        begins_at_random = self.model.pretrained is None
        require(rate == 1 or not begins_at_random, "optimizer.backbone_rate", rate, "1 without model.pretrained")
        fits = not self.augment.progressive or self.model.head != "flatten"
        require(fits, "augment.progressive", self.augment.progressive, "an empty list with model.head flatten")
        require(not self.model.freeze or not begins_at_random, "model.freeze", self.model.freeze, "0 without model.pretrained")
        lasts = self.train.precision != "auto" or not self.run.elastic
        require(lasts, "train.precision", "auto", "one type with run.elastic, because other hosts may join")
