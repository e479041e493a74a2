"""The VGG family (Simonyan & Zisserman 2015) as one hybridized Gluon block, built from the rows of ``layers.describe``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
from mxnet.gluon import nn

from vggdist.config.schema import ModelConfig
from vggdist.models.convolution import Float32Conv2D, MatrixConv2D
from vggdist.models.dense import FactoredDense
from vggdist.models.layers import NETWORK_PREFIX, NORM_EPSILON, ONEDNN_BLOCK, OUTPUT_WEIGHT, Layer, describe, suits_matrix


class VGG(nn.HybridSequential):
    """Images ``(N, channels, image_size, image_size) float32`` to class scores ``(N, num_classes) float32``.

    Each child is one row of :func:`~vggdist.models.layers.describe`, in its order. Every block has an explicit prefix,
    so a parameter's name contains its place (``vgg_stage1_conv1_weight``) and is the same in every process, however many
    networks it built before. Every layer gets its input size, so all parameters exist before the first forward pass.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        channels: int,
        image_size: int,
        num_classes: int,
        onednn: str | None = None,
        samples: int = 0,
    ) -> None:
        """Define the blocks; the parameters have no values yet.

        Args:
            onednn: build what is fastest on oneDNN in this precision, where it is faster: in float32
                :class:`~vggdist.models.convolution.MatrixConv2D`, in bfloat16
                :class:`~vggdist.models.convolution.Float32Conv2D`. Not ``BatchNormReLU`` of MXNet 1.9.1: before a pooling of
                few channels its gradients are wrong, or it fails.
            samples: in one forward pass of the training; 0 if its images are not always of ``image_size``.
        """
        super().__init__(prefix=NETWORK_PREFIX)
        inputs = channels
        with self.name_scope():
            for layer in describe(model, channels=channels, image_size=image_size, num_classes=num_classes):
                block = _block(layer, inputs, model, onednn, samples)
                if layer.frozen:
                    # MXNet then computes no gradient here, since nothing before it needs one either.
                    block.collect_params().setattr("grad_req", "null")
                if layer.fixed:
                    block[0].weight.grad_req = "null"
                self.add(block)
                inputs = layer.output_shape[0]


class SeededDropout(nn.Dropout):
    """Dropout that uses the generators that ``mx.random.seed`` sets, on every device.

    On a GPU Gluon's own uses cuDNN's generator, which cannot be seeded: two runs, or a run and its continuation, would differ.
    """

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        """Zeros and ``x / (1 - rate)`` in training, else ``x``; in the shape of ``x``."""
        return F.Dropout(x, p=self._rate, axes=self._axes, name="fwd", cudnn_off=True)


def build_vgg(
    model: ModelConfig,
    *,
    channels: int,
    image_size: int,
    num_classes: int,
    seed: int | None,
    context: mx.Context | Sequence[mx.Context] | None = None,
    onednn: str | None = None,
    samples: int = 0,
) -> VGG:
    """A hybridized network with initial parameters that depend only on the seed.

    The values are drawn on the CPU and then copied to the device, so all ranks and devices start with the same ones. This
    seeds MXNet's generators, which its initialisers use instead of numpy's.

    Args:
        seed: None: all parameters are zero, to be loaded.
        context: the device or devices that hold the parameters; None is the CPU.
        onednn: see :class:`VGG` and :func:`~vggdist.models.precision.onednn_precision`.
        samples: see :class:`VGG`.

    Raises:
        RequestError: the image is too small for the network; see :func:`~vggdist.models.layers.describe`.
    """
    shape = {"channels": channels, "image_size": image_size, "num_classes": num_classes}
    network = VGG(model, **shape, onednn=onednn, samples=samples)
    if seed is not None:
        mx.random.seed(seed)
    network.initialize(mx.init.Zero() if seed is None else _initializer(model), ctx=mx.cpu() if context is None else context)
    network.hybridize(static_alloc=True, static_shape=True)
    return network


def _initializer(model: ModelConfig) -> mx.init.Initializer:
    """The initialiser of all weights; each layer sets biases and beta to 0 and gamma to 1 itself.

    ``he`` also fits the output layer: the factor 2 compensates the ReLU before a layer (He et al. 2015, equation 10), and
    the output layer has one before it, too. By default MXNet's ``MSRAPrelu`` assumes a slope of 0.25 and the mean of both
    fans, hence the general form.
    """
    if model.initializer == "xavier":
        return _Initializer(model, rnd_type="uniform", factor_type="avg", magnitude=model.magnitude)
    return _Initializer(model, rnd_type="gaussian", factor_type="in", magnitude=2)


class _Initializer(mx.init.Xavier):
    """Xavier's initialiser, with the scale of the output layer, and with dirac convolutions that copy their input channels."""

    def __init__(self, model: ModelConfig, **options: Any) -> None:
        super().__init__(**options)
        self._model = model

    def _init_weight(self, name: str, arr: mx.nd.NDArray) -> None:
        super()._init_weight(name, arr)
        if name == OUTPUT_WEIGHT and self._model.output_scale != 1:
            arr[:] = arr * self._model.output_scale
        if self._model.initializer == "dirac" and arr.ndim == 4:
            values = arr.asnumpy()
            count = min(values.shape[:2])
            values[:count] = 0
            values[range(count), range(count), 1, 1] = 1
            arr[:] = values


def _block(layer: Layer, inputs: int, model: ModelConfig, onednn: str | None, samples: int) -> nn.HybridBlock:
    """The block of a row; ``inputs`` is its number of input channels or units."""
    if layer.kind == "convolution":
        return _convolution(layer, inputs, model, onednn, samples)
    if layer.kind == "pool":
        return _pool(layer.prefix)
    if layer.kind == "dense":
        hidden = layer.name != "output"
        return _dense(layer.prefix, inputs, layer.output_shape[0], model, hidden)
    pooling = {
        "flatten": [],
        "global_average": [nn.GlobalAvgPool2D(prefix="average_")],
        "global_max": [nn.GlobalMaxPool2D(prefix="max_")],
    }
    return _chain(layer.prefix, [*pooling[model.head], nn.Flatten(prefix="flatten_")])


def _pool(prefix: str) -> nn.MaxPool2D:
    return nn.MaxPool2D(pool_size=2, strides=2, prefix=prefix)


def _activation(model: ModelConfig, prefix: str) -> nn.HybridBlock:
    """The activation of a layer, whose prefix is given."""
    return nn.Activation("relu", prefix=f"{prefix}relu_") if model.activation == "relu" else nn.GELU(prefix=f"{prefix}gelu_")


def _chain(prefix: str, parts: Sequence[nn.HybridBlock]) -> nn.HybridSequential:
    """A sequence of blocks as one child."""
    chain = nn.HybridSequential(prefix=prefix)
    chain.add(*parts)
    return chain


def _convolution(layer: Layer, inputs: int, model: ModelConfig, onednn: str | None, samples: int) -> nn.HybridSequential:
    """3x3 convolution, pooling with ``model.early_pooling``, batch normalisation if the row has it, and activation."""
    channels, prefix = layer.output_shape[0], layer.prefix
    # The normalisation subtracts the mean of each channel, and with it any bias.
    options = {"use_bias": not layer.normalised, "in_channels": inputs, "prefix": prefix}
    if onednn == "float32" and suits_matrix(model, inputs, layer.convolved, samples):
        convolution = MatrixConv2D(channels, **options)
    elif onednn == "bfloat16" and layer.normalised and inputs < ONEDNN_BLOCK:
        convolution = Float32Conv2D(channels, 3, padding=model.padding, **options)
    else:
        convolution = nn.Conv2D(channels, 3, padding=model.padding, **options)
    # A frozen layer uses its running statistics in training as well, and does not update them.
    settings = {
        "in_channels": channels,
        "momentum": model.norm_momentum,
        "epsilon": NORM_EPSILON,
        "use_global_stats": layer.frozen,
        "prefix": f"{prefix}norm_",
    }
    parts = [convolution, _pool(f"{prefix}pool_")] if layer.unpooled else [convolution]
    norm = [nn.BatchNorm(**settings)] if layer.normalised else []
    return _chain(prefix, [*parts, *norm, _activation(model, prefix)])


def _dense(prefix: str, inputs: int, units: int, model: ModelConfig, hidden: bool) -> nn.HybridSequential:
    """Fully connected layer, with activation and dropout after a hidden one."""
    parts: list[nn.HybridBlock] = [FactoredDense(units, in_units=inputs, prefix=prefix)]
    if hidden:
        parts.append(_activation(model, prefix))
    if hidden and model.dropout > 0:
        parts.append(SeededDropout(model.dropout, prefix=f"{prefix}dropout_"))
    return _chain(prefix, parts)
