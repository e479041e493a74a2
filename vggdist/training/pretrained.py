"""Pretrained weights (model.pretrained): read on rank 0, once, when a run begins.

A run that continues takes all parameters and the names of the loaded layers from its checkpoint, and does not read the file.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.schema import CheckpointState
from vggdist.checkpoints.trained import read
from vggdist.collectives.world import World
from vggdist.config.data_sets import IMAGENET
from vggdist.config.errors import RequestError, agreed
from vggdist.config.files import naming
from vggdist.config.inference import place
from vggdist.models.layers import NETWORK_PREFIX, Layer, parameter_shapes
from vggdist.models.model import PREFIX, Model
from vggdist.models.spec import ModelSpec
from vggdist.weights.files import opened
from vggdist.weights.layer_matching import Fit, fit
from vggdist.weights.stored_array import StoredArray

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """Pretrained weights, and what they were trained with.

    Attributes:
        path: of the checkpoint or the file.
        mean, std: normalisation of the images, on a scale from 0 to 1.
        class_names: of the output layer; None if the file does not have them.
        parameters: of a checkpoint, by name; None if they are in the file.
    """

    path: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] | None = None
    parameters: Mapping[str, NDArray[Any]] | None = None


def find(path: str | None, world: World, begun: CheckpointState | None) -> Pretrained | None:
    """Find the weights that ``model.pretrained`` names; every rank must call this, and only rank 0 gets the parameters.

    Files of other programs are assumed to be networks of torchvision or Gluon's model zoo, which normalise by ImageNet's mean
    and standard deviation.

    Args:
        begun: of the checkpoint that the run continues from; it then needs no weights.

    Raises:
        RequestError: on every rank, when it is a folder without an intact checkpoint, or the run began without weights.
    """
    if path is None:
        return None
    if begun is not None:
        if not begun["loaded"]:
            raise agreed(RequestError(f"the run began without model.pretrained {path}; remove it, or use another --run.name"))
        return None
    found = world.together(lambda: _find(path) if world.is_root else None)
    mean, std = world.gather((found.mean, found.std) if found else None)[0]
    return found or Pretrained(path, tuple(mean), tuple(std))


def load(pretrained: Pretrained | None, model: Model, world: World) -> tuple[str, ...]:
    """Load the layers that fit into the network on rank 0; every rank must call this.

    Returns:
        On every rank, the names of the loaded layers.

    Raises:
        RequestError: on every rank, when no layer fits, a frozen layer does not fit, or the file cannot be read.
    """
    if pretrained is None:
        return ()
    loaded = world.together(lambda: _load(pretrained, model) if world.is_root else None)
    return tuple(world.gather(loaded)[0])


def parameters_of(loaded: Sequence[str], model: Model) -> set[str]:
    """The names of the parameters of the loaded layers."""
    prefixes = tuple(f"{NETWORK_PREFIX}{row.prefix}" for row in model.spec.layers() if row.name in loaded)
    return {name for name in model.parameters if name.startswith(prefixes)}


def _find(path: str) -> Pretrained:
    if not os.path.isdir(os.path.expanduser(path)):
        return Pretrained(path, *IMAGENET)
    trained = read(place(path, None))
    spec = trained.spec
    parameters = {name.removeprefix(PREFIX): array for name, array in trained.parameters.items()}
    return Pretrained(trained.path, spec.mean, spec.std, spec.class_names, parameters)


def _load(pretrained: Pretrained, model: Model) -> tuple[str, ...]:
    spec = model.spec
    rows = spec.layers()
    with _arrays(pretrained) as arrays:
        same_classes = pretrained.class_names in (None, spec.class_names)
        found = fit(rows, parameter_shapes(rows, spec.channels), arrays, same_classes)
        _require_frozen(rows, found, pretrained.path)
        values = found.values(rows)
    for name, value in values.items():
        model.parameters[name].set_data(mx.nd.array(value, ctx=model.device, dtype="float32"))
    _report(found, spec, pretrained.path)
    return tuple(found.taken)


@contextmanager
def _arrays(pretrained: Pretrained) -> Iterator[Mapping[str, StoredArray]]:
    if pretrained.parameters is None:
        with opened(Path(os.path.expanduser(pretrained.path))) as arrays:
            yield arrays
        return
    with naming(pretrained.path, fault=": "):
        yield {
            name: StoredArray(name, one.shape, str(one.dtype), partial(np.asarray, one))
            for name, one in pretrained.parameters.items()
        }


def _require_frozen(rows: Sequence[Layer], found: Fit, path: str) -> None:
    """Frozen layers must be in the file, since they are not trained."""
    if missing := [row.name for row in rows if row.frozen and row.name in found.initialized]:
        raise RequestError(f"model.freeze freezes {missing[0]}, which {path} does not have: {found.difference}")


def _report(found: Fit, spec: ModelSpec, path: str) -> None:
    logger.info("pretrained, from %s: %s", path, ", ".join(found.taken))
    if found.initialized:
        logger.info("initialised, not pretrained: %s (%s)", ", ".join(found.initialized), found.difference)
    if found.unused:
        logger.info("not used from the file: %s", ", ".join(found.unused))
    logger.info("images are normalised as for these weights: mean %s, deviation %s", spec.mean, spec.std)
