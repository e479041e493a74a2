"""Matching of the layers in a weight file with those of the network.

The files are of VGG networks, so the layers form a sequence: convolutions, each optionally with batch normalisation, then
fully connected layers. Names differ: ``vgg_stage1_conv1_weight`` (vggdist), ``features.0.weight`` (torchvision, and Gluon's
``save_parameters``), ``vgg0_conv0_weight`` (Gluon's ``export``), ``pre_logits.fc1.weight`` (timm, whose fully connected layers
are convolutions with a single output position). In all of them the numbers in the names increase with the layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from vggdist.models.layers import NETWORK_PREFIX, Layer
from vggdist.weights.stored_array import StoredArray

_ROLES = ("weight", "bias", "gamma", "beta", "running_mean", "running_var")
_NORM_ROLES = {"weight": "norm_gamma", "bias": "norm_beta"} | {role: f"norm_{role}" for role in _ROLES[2:]}
"""Roles in the network by role in the file; torch names gamma and beta weight and bias."""
_TIMM_HIDDEN, _TIMM_OUTPUT = "pre_logits.", "head."
_NAME = re.compile(rf"(?P<owner>.+)[._](?P<role>{'|'.join(_ROLES)})")

Shapes = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Shape of each parameter by layer and role, see :func:`~vggdist.models.layers.parameter_shapes`."""


@dataclass(frozen=True)
class StoredLayer:
    """A layer in a file: its name, and its arrays by their roles in the network."""

    name: str
    arrays: Mapping[str, StoredArray]


@dataclass(frozen=True)
class Fit:
    """Result of the matching.

    Attributes:
        taken: layers that get the file's values: those that match, from the input on up to the first mismatch.
        initialized: the other layers with parameters.
        unused: layers of the file that are not used.
        difference: why the first of ``initialized`` does not match; None if all layers match.
    """

    taken: Mapping[str, StoredLayer]
    initialized: tuple[str, ...]
    unused: tuple[str, ...]
    difference: str | None

    def values(self, rows: Sequence[Layer]) -> dict[str, NDArray[np.float32]]:
        """Read the values of the matching layers, by the names of the network's parameters.

        Raises:
            ValueError: they cannot be read, are not finite, or have an unsupported type.
        """
        return {
            f"{NETWORK_PREFIX}{row.prefix}{role}": array.values()
            for row in rows
            if row.name in self.taken
            for role, array in self.taken[row.name].arrays.items()
        }


def fit(rows: Sequence[Layer], shapes: Shapes, arrays: Mapping[str, StoredArray], same_classes: bool = True) -> Fit:
    """Compare a file with a network, layer by layer from the input on, up to the first mismatch.

    Later layers were trained on other features, so they are not used even if their shapes match.

    Args:
        rows: the layers of the network.
        same_classes: False if the file is known to have other classes; the output layer is then not used.

    Raises:
        ValueError: the first convolution does not match (the message has the reason), or the file is not of a VGG network.
    """
    convolutions, dense = stored_layers(arrays)
    taken: dict[str, StoredLayer] = {}
    difference = None
    for row, layer in _pairs(rows, convolutions, dense):
        if row is None or layer is None:
            convolution = row is None or row.kind == "convolution"
            difference = f"the file has another number of {'convolutions' if convolution else 'fully connected layers'}"
        elif row.name == "output" and not same_classes:
            difference = f"{layer.name} has other classes"
        else:
            difference = _difference(row, shapes[row.name], layer)
        if difference is not None or row is None or layer is None:
            break
        taken[row.name] = layer
    if not taken:
        raise ValueError(f"none of its layers matches: {difference}")
    used = {layer.name for layer in taken.values()}
    initialized = tuple(name for name in shapes if name not in taken)
    unused = tuple(layer.name for layer in (*convolutions, *dense) if layer.name not in used)
    return Fit(taken, initialized, unused, difference)


def stored_layers(arrays: Mapping[str, StoredArray]) -> tuple[list[StoredLayer], list[StoredLayer]]:
    """The convolutions of a file, each with its batch normalisation, and its fully connected layers, in network order.

    Raises:
        ValueError: there is no convolution, or the numbers of convolutions and batch normalisations differ.
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
    """The parameters by layer and role, in the order of the layers.

    Files store them in any order. The numbers in the names count all layers (``features.7.weight``) or the layers of one kind
    (``vgg0_conv2_weight``); in both cases the n-th batch normalisation belongs to the n-th convolution.
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
    """Merge a convolution and its batch normalisation into one layer.

    With batch normalisation, the network's convolutions have no bias. A bias b in the file is subtracted from the running mean
    m, because ``norm(conv + b; m) = norm(conv; m - b)``. This is exact in inference; in training the normalisation cancels b.
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
    """Corresponding layers of the network and the file; None for a layer without a counterpart."""
    yield from zip_longest([row for row in rows if row.kind == "convolution"], convolutions)
    ours = [row for row in rows if row.kind == "dense"]
    if len(ours) == len(dense):
        yield from zip(ours, dense)
    else:
        hidden = list(zip(ours[:-1], dense[:-1]))
        yield from [*hidden, (ours[len(hidden)], None)]


def _difference(row: Layer, shapes: Mapping[str, tuple[int, ...]], layer: StoredLayer) -> str | None:
    """Why a layer of the file does not match a layer of the network; None if it does."""
    for role in ("norm_gamma", *shapes):
        found = layer.arrays.get(role)
        if (found is not None) != (role in shapes):
            which = "a batch normalisation" if role == "norm_gamma" else f"a {role}"
            has = f"{layer.name} in the file has {which}, but {row.name} does not"
            return has if found is not None else f"{layer.name} in the file does not have {which}, but {row.name} does"
        if found is not None and found.shape != shapes[role]:
            return f"{found.name} in the file has the shape {found.shape}, but {row.name} has {shapes[role]}"
    return None
