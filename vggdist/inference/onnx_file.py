"""A trained network as an ONNX file, written from the rows of its description, and run by onnxruntime.

MXNet's own converter (``mx.onnx.export_model``) declares every weight an input, which prevents onnxruntime from fusing batch
normalisation, and labels the operators of ONNX 1.8 with the version of the installed onnx package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints.trained import Trained
from vggdist.config.errors import RequestError
from vggdist.config.schema import ModelConfig
from vggdist.models.inputs import constants
from vggdist.models.layers import NORM_EPSILON, Layer

try:
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper
except ImportError as error:
    raise RequestError(
        f"--format onnx needs the packages onnx and onnxruntime ({error}): pip install onnx onnxruntime, or the extra "
        "vggdist[onnx]"
    ) from None

SUFFIX = ".onnx"
_OPERATORS, _FORMAT = 13, 7  # ONNX 1.8 of 2020, which all current runtimes read
_LARGEST = 2**31 - 2**20
"""Maximum bytes of weights in a file: protobuf is limited to 2 GiB."""


def paths(output: Path) -> list[Path]:
    """The file of an export."""
    return [output]


def write(trained: Trained, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
    """Write the network: ``images`` ``(batch, S, S, C) uint8`` to ``probabilities`` ``(batch, num_classes) float32``.

    Raises:
        RequestError: the network is too large for the format.
        OSError: the file cannot be written.
    """
    if (size := sum(array.nbytes for array in trained.parameters.values())) > _LARGEST:
        raise RequestError(f"the network has {size / 2**30:.1f} GiB of weights, an ONNX file can have 2; use --format symbol")
    spec, chain = trained.spec, _network(trained)
    shape: list[str | int] = ["batch", spec.image_size, spec.image_size, spec.channels]
    graph = helper.make_graph(
        chain.nodes,
        "vgg",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(spec.class_names)])],
        chain.weights,
    )
    operators = [helper.make_opsetid("", _OPERATORS)]
    model = helper.make_model(graph, opset_imports=operators, ir_version=_FORMAT, producer_name="vggdist")
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    files[0].write_bytes(model.SerializeToString(deterministic=True))


def load(files: Sequence[Path]) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """The network in the file, as a function of ``(N, S, S, C) uint8``."""
    session = onnxruntime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


class _Chain:
    """A sequence of operations, each on the result of the one before."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._value = "images"

    def add(self, operation: str, *weights: tuple[str, NDArray[Any] | None], result: str = "", **attributes: Any) -> None:
        """Append an operation with its weights by name; None: the name is that of an earlier result."""
        inputs = [self._value, *(name for name, _ in weights)]
        self.weights += [numpy_helper.from_array(values, name) for name, values in weights if values is not None]
        self._value = result or f"{operation.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operation, inputs, [self._value], name=self._value, **attributes))

    def activation(self, model: ModelConfig) -> None:
        """Append ReLU, or GELU, ``x / 2 (1 + erf(x / sqrt(2)))``, for which these operators have no operation."""
        if model.activation == "relu":
            return self.add("Relu")
        x, count = self._value, len(self.nodes)
        for operation, constant in (("Mul", 0.5**0.5), ("Erf", None), ("Add", 1.0), ("Mul", 0.5)):
            name = f"gelu{count}_{operation.lower()}{constant}"
            self.add(operation, *([(name, np.array(constant, np.float32))] if constant is not None else []))
        self.add("Mul", (x, None))


def _network(trained: Trained) -> _Chain:
    spec, chain = trained.spec, _Chain()
    shift, factor = constants(spec.mean, spec.std)
    chain.add("Transpose", perm=[0, 3, 1, 2])
    chain.add("Cast", to=TensorProto.FLOAT)
    chain.add("Sub", ("shift", shift))
    chain.add("Mul", ("factor", factor))
    for layer in spec.layers():
        _add(chain, layer, spec.architecture, trained.parameters)
    return chain


def _add(chain: _Chain, layer: Layer, model: ModelConfig, parameters: Mapping[str, NDArray[Any]]) -> None:
    """Append the operations of a row, as :func:`vggdist.models.vgg._block` does; the softmax follows the output layer."""
    owner = f"vgg_{layer.name.replace('.', '_')}"

    def of(*roles: str) -> list[tuple[str, NDArray[Any]]]:
        return [(f"{owner}_{role}", parameters[f"parameter/{owner}_{role}"]) for role in roles]

    if layer.kind == "convolution":
        bias = [] if layer.normalised else ["bias"]
        chain.add("Conv", *of("weight", *bias), kernel_shape=[3, 3], pads=[model.padding] * 4)
        if layer.unpooled:
            chain.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        if layer.normalised:
            statistics = of("norm_gamma", "norm_beta", "norm_running_mean", "norm_running_var")
            chain.add("BatchNormalization", *statistics, epsilon=NORM_EPSILON)
        chain.activation(model)
    elif layer.kind == "pool":
        chain.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    elif layer.kind == "head":
        if model.head != "flatten":
            chain.add("GlobalAveragePool" if model.head == "global_average" else "GlobalMaxPool")
        chain.add("Flatten")
    else:
        chain.add("Gemm", *of("weight", "bias"), transB=1)
        if layer.name == "output":
            chain.add("Softmax", result="probabilities", axis=1)
        else:
            chain.activation(model)
