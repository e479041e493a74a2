"""A trained network as MXNet's symbol and parameter files, for MXNet without this package."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.trained import Trained
from vggdist.models.model import Model

SUFFIX = ""
_OF_VARIABLE = ("__dtype__", "__shape__")
"""Attributes of a variable that are kept. Gluon's others are for training; one names an initialiser of this process."""


def paths(output: Path) -> list[Path]:
    """The files of an export, named as ``mx.model.load_checkpoint(output, 0)`` expects them."""
    return [output.with_name(f"{output.name}-0000.params"), output.with_name(f"{output.name}-symbol.json")]


def write(trained: Trained, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
    """Write both: ``images`` ``(N, S, S, C) uint8`` to ``(N, num_classes) float32`` probabilities.

    The metadata are attributes of the variable ``images``.

    Raises:
        OSError: a file cannot be written.
    """
    model = Model(trained.spec, mx.cpu())
    model.load(trained.parameters)
    shape = (0, trained.spec.image_size, trained.spec.image_size, trained.spec.channels)
    images = mx.sym.var("images", shape=shape, dtype="uint8")
    symbol = mx.sym.softmax(model.forward(images), name="probabilities")
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        if node["op"] == "null":
            node["attrs"] = {key: value for key, value in node["attrs"].items() if key in _OF_VARIABLE}
        if node["name"] == "images":
            node["attrs"] |= metadata
    parameters_path, symbol_path = files
    symbol_path.write_text(json.dumps(graph, indent=2))
    changed_by_training = symbol.list_auxiliary_states()
    arrays = {
        f"{'aux' if name in changed_by_training else 'arg'}:{name}": parameter.data()
        for name, parameter in model.forward.collect_params().items()
    }
    try:
        mx.nd.save(str(parameters_path), arrays)
    except mx.MXNetError as error:
        raise OSError(0, str(error).splitlines()[-1].strip(), str(parameters_path)) from None


def load(files: Sequence[Path]) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """The network in both files, as a function of ``(N, S, S, C) uint8``."""
    parameters_path, symbol_path = files
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gluon cannot infer the type of images before the first call
        network = mx.gluon.SymbolBlock.imports(str(symbol_path), ["images"], str(parameters_path))
    return lambda images: network(mx.nd.array(images, dtype="uint8")).asnumpy()
