"""A network on a device, with its normalisation: from the bytes of images to class scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter, nn
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.models.inputs import Normalize
from vggdist.models.spec import ModelSpec
from vggdist.models.vgg import build_vgg

PREFIX = "parameter/"
"""Prefix of the names of parameters in a checkpoint."""


class Model:
    """A network, ready for training or inference.

    Attributes:
        spec: its description.
        inputs: ``(N, S, S, C) uint8`` images to the network's input.
        network: its input to ``(N, num_classes)`` scores.
        forward: both: images to ``float32`` scores, as one hybridized graph.
        parameters: of the network, by name, including the running statistics of batch normalisation.
    """

    def __init__(
        self, spec: ModelSpec, device: mx.Context, *, seed: int | None = None, onednn: str | None = None, samples: int = 0
    ) -> None:
        """Build it.

        Args:
            seed: of the initial parameters, see :func:`~vggdist.models.vgg.build_vgg`.
            onednn, samples: see :class:`~vggdist.models.vgg.VGG`.

        Raises:
            RequestError: the image is too small for the network.
        """
        self.spec, self.device = spec, device
        self.network = build_vgg(spec.architecture, **spec.shape, context=device, seed=seed, onednn=onednn, samples=samples)
        self.inputs = Normalize(spec.mean, spec.std)
        self.inputs.initialize(ctx=device)
        self.parameters: dict[str, Parameter] = dict(self.network.collect_params().items())
        self.forward = nn.HybridSequential(prefix="forward_")
        scores = nn.HybridLambda(lambda F, scores: F.cast(scores, dtype="float32"), prefix="scores_")
        self.forward.add(self.inputs, self.network, scores)
        self.forward.hybridize(static_alloc=True, static_shape=True)

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Set the parameters to a checkpoint's arrays.

        Raises:
            RequestError: an array is missing or of another shape or type; then nothing is changed.
        """
        require_parameters({name: parameter.shape for name, parameter in self.parameters.items()}, arrays)
        for name, parameter in self.parameters.items():
            # A new array: after an inference pass the old one may be in oneDNN's layout, which cannot be assigned to.
            parameter.set_data(mx.nd.array(arrays[PREFIX + name], ctx=self.device, dtype="float32"))


def require_parameters(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Compare a checkpoint's arrays with the parameters of a network; ``RequestError`` names the first difference."""
    for name, shape in shapes.items():
        array = arrays.get(PREFIX + name)
        if array is None:
            raise RequestError(f"the checkpoint has no {PREFIX}{name}, which its own description of the network requires")
        if array.shape != shape or array.dtype != np.float32:
            raise RequestError(f"the checkpoint's {name} is {array.dtype} {array.shape}; its network has float32 {shape}")
