"""Parameters from Gluon's model zoo (``mxnet.gluon.model_zoo.vision.vgg16`` and its family) for our network.

The zoo names its layers otherwise, and its networks with batch normalisation keep a bias in the convolutions that ours
do not have; apart from that the two are the same function.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock

from vggdist.config.errors import RequestError
from vggdist.models.vgg import VGG

_ROLES = ("weight", "bias", "gamma", "beta", "running_mean", "running_var")
_NAME = re.compile(rf"(?P<owner>.+)[._](?P<role>{'|'.join(_ROLES)})")
_HASHED_FILE = re.compile(r".+-(?P<sha1>[0-9a-f]{8})\.params")

Named = tuple[str, str, np.ndarray]
"""(name, role, value) of one parameter."""


def copy_zoo_parameters(network: VGG, zoo: HybridBlock | Mapping[str, mx.nd.NDArray]) -> None:
    """Give ``network`` the parameters of a VGG of Gluon's model zoo, so that both compute the same function.

    With batch normalisation the bias b of a zoo convolution goes into the running mean m, for
    ``norm(conv + b; m) = norm(conv; m - b)``: exact in inference, and in training the normalisation cancels b anyway.

    Args:
        network: ours, with the same table of stages, image size and number of classes as the zoo's.
        zoo: an initialised zoo network, or its parameters by name as ``mx.nd.load`` returns them, in any order.

    Raises:
        RequestError: where a parameter is missing, left over or of another shape; the message names the first one in
            the order of the layers, and ``network`` is unchanged.
    """
    if isinstance(zoo, HybridBlock):
        zoo = {name: parameter.data(parameter.list_ctx()[0]) for name, parameter in zoo.collect_params().items()}
    ours = network.collect_params()
    values = _in_layer_order({name.split(":")[-1]: array.asnumpy() for name, array in zoo.items()})
    for target, source in zip_longest(ours, values):
        _check_pair(target, ours[target].shape if target else (), source)
    for target, (_, _, value) in zip(ours, values):
        # A fresh array, because an inference pass may have left the old one in oneDNN's layout.
        ours[target].set_data(mx.nd.array(value))


def load_zoo_file(network: VGG, path: str | Path) -> None:
    """Give ``network`` the parameters of a ``.params`` file of a zoo VGG, e.g. ``vgg16-e660d456.params``.

    The format holds plain arrays (nothing is unpickled) but no checksum. The zoo's files carry the first 8 digits of
    their SHA-1 in their name; where they do, it is checked.

    Raises:
        RequestError: where the file is missing, damaged, or no ``.params`` file; otherwise as
            :func:`copy_zoo_parameters`. The message names the file.
    """
    path = Path(path)
    try:
        _check_hash(path)
        arrays = mx.nd.load(str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); give a .params file of Gluon's zoo") from None
    except mx.MXNetError as error:
        raise RequestError(f"{path}: is not a whole .params file ({str(error).splitlines()[-1].strip()})") from None
    if not isinstance(arrays, dict):
        raise RequestError(f"{path}: holds arrays without names; save the zoo network with save_parameters")
    try:
        copy_zoo_parameters(network, arrays)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None


def _check_hash(path: Path) -> None:
    """Refuse a file that differs from the SHA-1 in its own name; OSError where it cannot be read."""
    with path.open("rb") as file:
        named = _HASHED_FILE.fullmatch(path.name)
        if named and not hashlib.file_digest(file, "sha1").hexdigest().startswith(named["sha1"]):
            raise RequestError(f"{path}: its content does not have the SHA-1 in its name; fetch it again")


def _in_layer_order(arrays: Mapping[str, np.ndarray]) -> list[Named]:
    """The zoo's parameters in the order of our network's, the biases before a normalisation folded into its mean.

    Files written by Python 2 hold them in no particular order, hence the sorting by the numbers in the names. These
    count through all layers (``features.7.weight``) or through one kind (``vgg0_conv2_weight``); in both cases the
    n-th normalisation belongs to the n-th convolution, and the dense layers come last.
    """
    layers: dict[str, dict[str, Named]] = {}
    for name in sorted(arrays, key=_natural_order):
        match = _NAME.fullmatch(name)
        if match is None:
            raise RequestError(f"{name} is no parameter of a zoo VGG; expected names that end in {', '.join(_ROLES)}")
        layers.setdefault(match["owner"], {})[match["role"]] = (name, match["role"], arrays[name])
    norms = [layer for layer in layers.values() if not {"weight", "bias"} & set(layer)]
    weighted = [layer for layer in layers.values() if {"weight", "bias"} & set(layer)]
    merged = [_folded(layer or {}, norm or {}) for layer, norm in zip_longest(weighted, norms)]
    return [layer[role] for layer in merged for role in _ROLES if role in layer]


def _natural_order(name: str) -> list[tuple[int, str]]:
    """A sort key under which ``conv2`` comes before ``conv10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|\D+", name)]


def _folded(layer: Mapping[str, Named], norm: Mapping[str, Named]) -> dict[str, Named]:
    """A convolution and its normalisation as one, with the convolution's bias taken off the running mean."""
    merged = {**layer, **norm}
    bias, mean = merged.get("bias"), merged.get("running_mean")
    if bias is not None and mean is not None and bias[2].shape == mean[2].shape:
        merged["running_mean"] = (*mean[:2], mean[2] - bias[2])
        del merged["bias"]
    return merged


def _check_pair(target: str | None, shape: tuple[int, ...], source: Named | None) -> None:
    """Refuse the n-th pair of parameters unless it is the same thing in both networks."""
    if target is None and source is not None:
        raise RequestError(f"zoo parameter {source[0]} {source[2].shape} has no place in the network; compare model.name")
    if source is None:
        raise RequestError(f"the zoo has no value for {target} {shape}; compare model.name and model.batch_norm")
    name, role, value = source
    if not str(target).endswith(f"_{role}") or value.shape != shape:
        raise RequestError(
            f"{target} {shape} does not fit zoo parameter {name} {value.shape}; compare model.name, model.batch_norm, "
            "model.hidden, data.image_size (the zoo's files are for 224 pixels) and the number of classes"
        )
