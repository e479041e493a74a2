"""Description of a network and its preprocessing, without MXNet.

A checkpoint contains it, so that its network can be built without the data set and the configuration of the training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from vggdist.config.errors import RequestError, require, written
from vggdist.config.network import WITHDRAWN
from vggdist.config.schema import ModelConfig
from vggdist.models.layers import Layer, describe

_LARGEST_SIDE = 2**14
_OF_TRAINING = ("dropout", "norm_momentum", "initializer", "magnitude", "pretrained")
"""Fields of :class:`~vggdist.config.schema.ModelConfig` that may change when a run continues."""


@dataclass(frozen=True)
class ModelSpec:
    """A network and its preprocessing of images.

    Attributes:
        architecture: the layers.
        class_names: in the order of the scores.
        channels: of the images: 1 for grey, 3 for RGB.
        image_size: side in pixels of the network's square input.
        resize: short side in pixels that an image is scaled to before its centre is cropped.
        mean, std: of each channel on a scale from 0 to 1: the mean is subtracted, then the result divided by std.
    """

    architecture: ModelConfig
    class_names: tuple[str, ...]
    channels: Literal[1, 3]
    image_size: int
    resize: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Validate the fields; raises ``ValueError``."""
        require(len(self.class_names) >= 1, "class_names", self.class_names, "at least one")
        require(1 <= self.image_size <= _LARGEST_SIDE, "image_size", self.image_size, f"1 to {_LARGEST_SIDE} pixels")
        require(self.image_size <= self.resize <= _LARGEST_SIDE, "resize", self.resize, f"image_size to {_LARGEST_SIDE}")
        require(len(self.mean) == self.channels, "mean", self.mean, "a number for each channel")
        require(len(self.std) == self.channels and all(x > 0 for x in self.std), "std", self.std, "positive, one a channel")

    @property
    def shape(self) -> dict[str, int]:
        """``channels``, ``image_size`` and ``num_classes``, which the architecture does not contain."""
        return {"channels": self.channels, "image_size": self.image_size, "num_classes": len(self.class_names)}

    def layers(self) -> list[Layer]:
        """The network's rows; ``RequestError`` if the image is too small for it."""
        return describe(self.architecture, **self.shape)

    def as_json(self) -> dict[str, Any]:
        """JSON values that :meth:`from_json` reads."""
        values: dict[str, Any] = TypeAdapter(ModelSpec).dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The spec that :meth:`as_json` returned; ``RequestError`` if a value is invalid or unknown."""
        try:
            spec: ModelSpec = TypeAdapter(cls).validate_json(to_json(values), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("model", *first["loc"])))
            raise RequestError(f"{place}: {first['msg']}".replace("Value error, ", "")) from None
        keys = {key for key, value in values["architecture"].items() if (f"model.{key}", value) not in WITHDRAWN.items()}
        if unknown := sorted(keys - set(vars(spec.architecture))):
            raise RequestError(f"model.{unknown[0]} is unknown to this version of vggdist; use the one that wrote it")
        return spec

    def difference(self, other: ModelSpec) -> str | None:
        """The first difference from the spec of a checkpoint, as text; None if a training may continue from it.

        Class names are compared as a part of the data. Preprocessing before the normalisation, and fields that only the
        training uses, may differ.
        """
        pairs = [(f"model.{key}", getattr(other.architecture, key), value) for key, value in _lasting(self.architecture)]
        pairs += [(key, getattr(other, key), getattr(self, key)) for key in ("channels", "image_size", "mean", "std")]
        differences = ((key, before, now) for key, before, now in pairs if before != now)
        return next(
            (f"the checkpoint's {key} is {written(one)}, this run's is {written(two)}" for key, one, two in differences), None
        )


def _lasting(architecture: ModelConfig) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in dataclasses.asdict(architecture).items() if key not in _OF_TRAINING]
