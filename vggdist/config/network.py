"""Which network is trained, and with which weights it begins: the section ``model`` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vggdist.config.errors import require
from vggdist.config.options import PathText


@dataclass(frozen=True)
class ModelConfig:
    """The VGG network (Simonyan & Zisserman 2015, Table 1)."""

    name: Literal["vgg11", "vgg13", "vgg16", "vgg19", "custom"] = "vgg11"
    """Columns A, B, D and E of the paper's table, or custom: the table in model.stages."""
    stages: tuple[tuple[int, int], ...] | None = None
    """Table of a custom network: (convolutions, channels) of each stage; a 2x2 max pooling ends each stage."""
    batch_norm: bool = False
    """Batch normalisation after each convolution (the convolutions then have no bias)."""
    padding: Literal[0, 1] = 1
    """Zero padding of the 3x3 convolutions in pixels: 1 keeps the size, 0 shrinks it by 2 at each convolution."""
    width_divisor: int = 1
    """Channels of every stage are divided by this number."""
    head: Literal["flatten", "global_average"] = "flatten"
    """What the classifier sees: all positions of the last stage, or their mean."""
    hidden: tuple[int, ...] = (4096, 4096)
    """Widths of the fully connected layers before the class scores; an empty list has none."""
    dropout: float = 0.5
    """Probability of dropping each output of the fully connected hidden layers; 0 is no dropout."""
    initializer: Literal["xavier", "he"] = "he"
    """xavier: uniform with variance model.magnitude / (3 fan_avg) as in MXNet; he: normal with variance 2 / fan_in."""
    magnitude: float = 3.0
    """Magnitude of the Xavier initialiser."""
    pretrained: PathText | None = None
    """Where the training begins: folder of a run or of a checkpoint, or file of a VGG network, from Gluon's model zoo
    (.params), torchvision (.pth) or .safetensors. Layers that fit are taken, the others begin at random
    (docs/fine-tuning.md). null: all begin at random."""
    freeze: int = 0
    """Stages, from the image on, that stay as they are: no gradient, no update, batch normalisation by its running
    statistics."""

    def __post_init__(self) -> None:
        custom = self.name == "custom"
        require(
            custom == (self.stages is not None),
            "model.stages",
            self.stages,
            "a table with model.name custom" if custom else "null unless model.name is custom",
        )
        for convolutions, channels in self.stages or ():
            require(convolutions >= 1 and channels >= 1, "model.stages", (convolutions, channels), "positive numbers")
        require(self.stages is None or len(self.stages) > 0, "model.stages", self.stages, "at least one stage")
        require(self.width_divisor >= 1, "model.width_divisor", self.width_divisor, "at least 1")
        require(all(width >= 1 for width in self.hidden), "model.hidden", self.hidden, "positive widths")
        require(0 <= self.dropout < 1, "model.dropout", self.dropout, "a probability below 1")
        require(self.magnitude > 0, "model.magnitude", self.magnitude, "a positive number")
        require(self.freeze >= 0, "model.freeze", self.freeze, "0 or more stages")
