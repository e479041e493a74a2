"""Architecture and initial weights: the section ``model`` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vggdist.config.errors import require
from vggdist.config.options import PathText

WITHDRAWN = {"model.norm_epsilon": 1e-5}
"""Settings of earlier versions, and the value that always holds now; files and checkpoints with this value can be read."""


def _is_stage(widths: tuple[int, ...]) -> bool:
    return len(widths) > 0 and min(widths) >= 1


@dataclass(frozen=True)
class ModelConfig:
    """The VGG network (Simonyan & Zisserman 2015, Table 1)."""

    name: Literal["vgg11", "vgg13", "vgg16", "vgg19", "custom"] = "vgg11"
    """Architecture: columns A, B, D and E of the paper's table. custom: the stages in model.stages or model.widths."""
    stages: tuple[tuple[int, int], ...] | None = None
    """Stages of a custom network: (convolutions, channels) of each; every stage ends with 2x2 max pooling (but see
    model.head)."""
    widths: tuple[tuple[int, ...], ...] | None = None
    """Channels of each convolution of a custom network, a list for each stage, instead of model.stages."""
    batch_norm: bool = False
    """Batch normalisation after each convolution; the convolutions then have no bias."""
    norm_momentum: float = 0.9
    """Weight of the previous value in the moving averages of mean and variance that batch normalisation uses in evaluation. A
    training of few steps needs a smaller one."""
    whitening: bool = False
    """Whiten image patches by the first convolution: its weights are computed from the training images when the run begins,
    and are not trained. Its output is normalised already, so it has a bias instead of batch normalisation (Jordan 2024,
    section 3.2)."""
    activation: Literal["relu", "gelu"] = "relu"
    """Activation after each convolution and hidden layer: ReLU, or GELU (Hendrycks & Gimpel 2016)."""
    early_pooling: bool = False
    """Pool the output of a stage's last convolution before batch normalisation and activation, not after: these then process a
    quarter of the pixels."""
    padding: Literal[0, 1] = 1
    """Zero padding of the 3x3 convolutions in pixels. 1 keeps the size; 0 reduces it by 2 per convolution."""
    width_divisor: int = 1
    """Divisor of the number of channels of every stage."""
    head: Literal["flatten", "global_average", "global_max"] = "flatten"
    """Input of the classifier: the flattened features of the last stage, or the average or maximum of each channel. With
    global_max the last stage has no pooling of its own."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the fully connected hidden layers; an empty list: none."""
    dropout: float = 0.5
    """Dropout probability of the fully connected hidden layers; 0: no dropout."""
    initializer: Literal["xavier", "he", "dirac"] = "he"
    """Weight initialiser. xavier: uniform with variance model.magnitude / (3 fan_avg) as in MXNet. he: normal with variance 2
    / fan_in. dirac: as he, but each convolution copies its input channels to its first output channels."""
    magnitude: float = 3.0
    """Magnitude of the Xavier initialiser."""
    output_scale: float = 1.0
    """Factor of the output layer's initial weights. With a small one, the first scores are nearly equal for all classes."""
    pretrained: PathText | None = None
    """Initial weights: folder of a run or of a checkpoint, or a file of a VGG network, from Gluon's model zoo (.params),
    torchvision (.pth) or .safetensors. Layers that do not match are initialised randomly (docs/fine-tuning.md). null: all
    layers are."""
    freeze: int = 0
    """Number of stages, from the input on, that are frozen: no gradient, no update, batch normalisation with its running
    statistics."""

    def __post_init__(self) -> None:
        custom = self.name == "custom"
        given = self.stages is not None or self.widths is not None
        expected = "a table, or model.widths, with model.name custom" if custom else "null unless model.name is custom"
        require(custom or self.widths is None, "model.widths", self.widths, expected)
        require(custom == given, "model.stages", self.stages, expected)
        require(self.stages is None or self.widths is None, "model.widths", self.widths, "null with model.stages")
        full = self.widths is None or len(self.widths) > 0 and all(map(_is_stage, self.widths))
        require(full, "model.widths", self.widths, "at least one stage, each of at least one positive number")
        for convolutions, channels in self.stages or ():
            require(convolutions >= 1 and channels >= 1, "model.stages", (convolutions, channels), "positive numbers")
        require(self.stages is None or len(self.stages) > 0, "model.stages", self.stages, "at least one stage")
        require(0 <= self.norm_momentum < 1, "model.norm_momentum", self.norm_momentum, "0 or more and below 1")
        require(self.width_divisor >= 1, "model.width_divisor", self.width_divisor, "at least 1")
        require(all(width >= 1 for width in self.hidden), "model.hidden", self.hidden, "positive widths")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a probability below 1")
        require(self.magnitude > 0, "model.magnitude", self.magnitude, "a positive number")
        require(self.output_scale >= 0, "model.output_scale", self.output_scale, "0 or more")
        require(self.freeze >= 0, "model.freeze", self.freeze, "0 or more stages")
