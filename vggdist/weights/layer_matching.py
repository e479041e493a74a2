"""Which layers of a file are those of our network?

The files are of VGG networks, so their layers come in a row: convolutions, each with its batch normalisation if there is one,
and fully connected layers. Names differ: ``vgg_stage1_conv1_weight`` (ours), ``features.0.weight`` (torchvision, and Gluon's
``save_parameters``), ``vgg0_conv0_weight`` (Gluon's ``export``), ``pre_logits.fc1.weight`` (timm, whose fully connected layers
are convolutions that give one position). In all of them the numbers in the names rise with the layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from vggdist.models.layers import NETWORK_PREFIX, Layer
from vggdist.weights.stored_array import StoredArray

_ROLES = ("weight", "bias", "gamma", "beta", "running_mean", "running_var")
_NORM_ROLES = {"weight": "norm_gamma", "bias": "norm_beta"} | {role: f"norm_{role}" for role in _ROLES[2:]}
"""In our network; torch calls gamma and beta weight and bias."""
_TIMM_HIDDEN, _TIMM_OUTPUT = "pre_logits.", "head."
_NAME = re.compile(rf"(?P<owner>.+)[._](?P<role>{'|'.join(_ROLES)})")

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Of each parameter, by the name of its row and its role there: see :func:`~vggdist.models.layers.parameter_shapes`."""


@dataclass(frozen=True)
class StoredLayer:
    """A layer of a file: its name there, and its arrays by their roles in our network."""

    name: str
    arrays: Mapping[str, StoredArray]


@dataclass(frozen=True)
class Fit:
    """What a network takes from a file.

    Attributes:
        taken: rows that have the file's values: from the image on, as far as they fit.
        anew: the other rows with parameters.
        left: layers of the file that are not used.
        difference: why the first of ``anew`` is not taken; None where all are.
    """

    taken: Mapping[str, StoredLayer]
    anew: tuple[str, ...]
    left: tuple[str, ...]
    difference: str | None

    def values(self, rows: Sequence[Layer]) -> dict[str, np.ndarray]:
        """Read the values of what is taken: ``float32`` arrays by the names of our parameters.

        Raises:
            ValueError: they cannot be read, or are no finite numbers of a type that parameters have.
        """
        return {
            f"{NETWORK_PREFIX}{row.prefix}{role}": array.values()
            for row in rows
            if row.name in self.taken
            for role, array in self.taken[row.name].arrays.items()
        }


def fit(rows: Sequence[Layer], shapes: Shapes, arrays: Mapping[str, StoredArray], same_classes: bool = True) -> Fit:
    """Compare a file with a network, layer by layer from the image on, up to the first one that differs.

    What comes behind that one was trained on other features, and is not taken even where its shape is the same.

    Args:
        rows: of the network.
        same_classes: False: the file's classes are known to be others, so the output layer is not taken.

    Raises:
        ValueError: not even the first convolution fits; the message says why. Or the file is of no VGG.
    """
    convolutions, dense = stored_layers(arrays)
    taken: dict[str, StoredLayer] = {}
    difference = None
    for row, layer in _pairs(rows, convolutions, dense):
        if row is None or layer is None:
            convolution = row is None or row.kind == "convolution"
            difference = f"the file has another number of {'convolutions' if convolution else 'fully connected layers'}"
        elif row.name == "output" and not same_classes:
            difference = f"the classes of {layer.name} are others"
        else:
            difference = _difference(row, shapes[row.name], layer)
        if difference is not None or row is None or layer is None:
            break
        taken[row.name] = layer
    if not taken:
        raise ValueError(f"none of its layers fits: {difference}")
    used = {layer.name for layer in taken.values()}
    anew = tuple(name for name in shapes if name not in taken)
    left = tuple(layer.name for layer in (*convolutions, *dense) if layer.name not in used)
    return Fit(taken, anew, left, difference)


def stored_layers(arrays: Mapping[str, StoredArray]) -> tuple[list[StoredLayer], list[StoredLayer]]:
    """The convolutions of a file, each with its normalisation, and its fully connected layers, in the order of the network.

    Raises:
        ValueError: there is no convolution, or not a normalisation for each of them where there are some.
    """
    convolutions, norms, dense = [], [], []
    for owner, roles in _by_owner(arrays).items():
        weight = roles.get("weight")
        dimensions = len(weight.shape) if weight is not None else 0
        if "running_mean" in roles or "gamma" in roles:
            norms.append({_NORM_ROLES[role]: array for role, array in roles.items()})
        elif dimensions == 4 and not owner.startswith(_TIMM_HIDDEN):
            convolutions.append(StoredLayer(owner, roles))
        elif weight is not None and dimensions >= 2:
            flat = weight.reshaped((weight.shape[0], math.prod(weight.shape[1:])))
            dense.append(StoredLayer(owner, {**roles, "weight": flat}))
    if not convolutions:
        raise ValueError("it has no convolutions")
    if norms and len(norms) != len(convolutions):
        raise ValueError(f"it has {len(convolutions)} convolutions and {len(norms)} batch normalisations")
    pairs = zip(convolutions, norms or [{}] * len(convolutions))
    return [StoredLayer(one.name, _folded(one.arrays, norm)) for one, norm in pairs], dense


def _by_owner(arrays: Mapping[str, StoredArray]) -> dict[str, dict[str, StoredArray]]:
    """The arrays that have a role, by their layer's name and their role, in the order of the layers.

    Files hold them in any order. The numbers in the names count through all layers (``features.7.weight``) or through one kind
    (``vgg0_conv2_weight``); in both cases the n-th normalisation belongs to the n-th convolution.
    """
    layers: dict[str, dict[str, StoredArray]] = {}
    for name in sorted(arrays, key=_order):
        if match := _NAME.fullmatch(name):
            layers.setdefault(match["owner"], {})[match["role"]] = arrays[name]
    return layers


def _order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """A sort key under which ``conv2`` comes before ``conv10``, and timm's output layer last."""
    parts = re.findall(r"\d+|\D+", name)
    return name.startswith(_TIMM_OUTPUT), [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _folded(layer: Mapping[str, StoredArray], norm: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    """A convolution and its normalisation as one.

    A convolution that is normalised has no bias in our network; where it has one, b, it goes into the running mean m, for
    ``norm(conv + b; m) = norm(conv; m - b)``: exact in inference, and in training the normalisation cancels b anyway.
    """
    merged = {**layer, **norm}
    bias, mean = layer.get("bias"), norm.get("norm_running_mean")
    if bias is not None and mean is not None and bias.shape == mean.shape:
        del merged["bias"]
        merged["norm_running_mean"] = StoredArray(mean.name, mean.shape, "float32", lambda: mean.values() - bias.values())
    return merged


def _pairs(
    rows: Sequence[Layer], convolutions: Sequence[StoredLayer], dense: Sequence[StoredLayer]
) -> Iterator[tuple[Layer | None, StoredLayer | None]]:
    """What stands at the same place in both networks; None where one of them has nothing there."""
    yield from zip_longest([row for row in rows if row.kind == "convolution"], convolutions)
    ours = [row for row in rows if row.kind == "dense"]
    if len(ours) == len(dense):
        yield from zip(ours, dense)
    else:
        hidden = list(zip(ours[:-1], dense[:-1]))
        yield from [*hidden, (ours[len(hidden)], None)]


def _difference(row: Layer, shapes: Mapping[str, tuple[int, ...]], layer: StoredLayer) -> str | None:
    """Why a layer of the file cannot stand in the place of a row; None where it can."""
    for role in ("norm_gamma", *shapes):
        found = layer.arrays.get(role)
        if (found is not None) != (role in shapes):
            which = "a batch normalisation" if role == "norm_gamma" else f"a {role}"
            has = f"{layer.name} of the file has {which}, and {row.name} has none"
            return has if found is not None else f"{layer.name} of the file lacks {which}, which {row.name} has"
        if found is not None and found.shape != shapes[role]:
            return f"{found.name} of the file is {found.shape}, {row.name} takes {shapes[role]}"
    return None
