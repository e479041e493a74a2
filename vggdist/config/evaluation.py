"""Evaluation: the section ``evaluation`` of a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vggdist.config.errors import require


@dataclass(frozen=True)
class MeasuringConfig:
    """How a network is evaluated."""

    batch_size: int = 128
    """Images per rank in one evaluation batch; each crop and each view counts as an image."""
    crops: Literal[1, 5, 10] = 1
    """Crops of each image whose softmax outputs are averaged. 1: the centre; 5: centre and corners; 10: these and their mirror
    images (Krizhevsky et al. 2012, section 4.1). 5 and 10 require augment.resize above data.image_size."""
    views: Literal[1, 2, 6] = 1
    """Views of each image whose softmax outputs are averaged. 1: the image; 2: the image and its mirror image; 6: these, and
    both of the image shifted by one pixel to the upper left and to the lower right, with reflected borders (Jordan 2024, with
    equal weights). 2 and 6 require evaluation.crops 1."""

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "evaluation.batch_size", self.batch_size, "at least 1 sample")
        allowed = self.views == 1 or self.crops == 1
        require(allowed, "evaluation.views", self.views, f"1 with evaluation.crops {self.crops}")

    @property
    def inputs_per_image(self) -> int:
        """Inputs of the network for each image: its crops or views."""
        return self.crops * self.views

    @property
    def images_at_once(self) -> int:
        """Images in one forward pass: the crops or views of a sample stay together."""
        return max(1, self.batch_size // self.inputs_per_image) * self.inputs_per_image


@dataclass(frozen=True)
class EvaluationConfig(MeasuringConfig):
    """When the network is evaluated, and on which images."""

    every_epochs: int = 1
    """Epochs between two evaluations; the last one is always at the end. 0: only at the end."""
    training_set: bool = False
    """Also evaluate the training set, without augmentation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.every_epochs >= 0, "evaluation.every_epochs", self.every_epochs, "0 or more epochs")
