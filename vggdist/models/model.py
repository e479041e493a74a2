"""A network on a device, with all that turns the bytes of images into class scores. It knows nothing of a training."""

from __future__ import annotations

from collections.abc import Mapping

import mxnet as mx
import numpy as np
from mxnet.gluon import Parameter, nn

from vggdist.config.errors import RequestError
from vggdist.models.inputs import Normalize
from vggdist.models.spec import ModelSpec
from vggdist.models.vgg import build_vgg

PREFIX = "parameter/"
"""Of the names of parameters in a checkpoint."""


class Model:
    """A network that is ready to be used or trained.

    Attributes:
        spec: what it was built from.
        inputs: ``(N, S, S, C) uint8`` images to what the network takes.
        network: to ``(N, num_classes)`` scores.
        forward: both: images to ``float32`` scores, as one hybridized graph.
        parameters: of the network, by name; batch normalisation's running statistics are among them.
    """

    def __init__(
        self, spec: ModelSpec, device: mx.Context, *, seed: int | None = None, onednn: bool = False, samples: int = 0
    ) -> None:
        """Build it.

        Args:
            seed: of the initial parameters, see :func:`~vggdist.models.vgg.build_vgg`.
            onednn, samples: see :class:`~vggdist.models.vgg.VGG`.

        Raises:
            RequestError: where the image is too small for the network.
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

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the parameters out of a checkpoint's arrays.

        Raises:
            RequestError: one is missing or of another shape or type; nothing is changed then.
        """
        require_parameters({name: parameter.shape for name, parameter in self.parameters.items()}, arrays)
        for name, parameter in self.parameters.items():
            # A new array: an inference pass may have left the old one in oneDNN's layout, which cannot be assigned to.
            parameter.set_data(mx.nd.array(arrays[PREFIX + name], ctx=self.device, dtype="float32"))


def require_parameters(shapes: Mapping[str, tuple[int, ...]], arrays: Mapping[str, np.ndarray]) -> None:
    """Compare a checkpoint's arrays with the parameters of a network: ``RequestError`` names the first difference."""
    for name, shape in shapes.items():
        found = arrays.get(PREFIX + name)
        if found is None:
            raise RequestError(f"the checkpoint has no {PREFIX}{name}, which its own description of the network asks for")
        if found.shape != shape or found.dtype != np.float32:
            raise RequestError(f"the checkpoint's {name} is {found.dtype} {found.shape}; its network has float32 {shape}")
