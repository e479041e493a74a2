"""Estimate of the memory that one rank needs on its device.

Everything is float32, 4 bytes. With ``P`` trainable parameters, ``k`` states of the optimizer for each (1 for momentum, 2 for
Adam, one more for ``optimizer.ema_decay``), and ``m`` samples at once (the rank's batch divided by ``train.accumulation``):

* parameters ``4 P`` (and batch normalisation's running statistics), gradients ``4 P``, optimizer state ``4 k P``; those of
  frozen stages (model.freeze) count once, as parameters;
* activations ``4 m A``: what the forward pass stores for the backward pass, ``A`` numbers for a sample: the image, the
  output of each convolution (its ReLU is in place; batch normalisation stores its input as well), of each pooling and of
  each dense layer (with dropout also the mask and the result);
* gradients of activations ``4 m G``: of the input and the output of the layer where these two are largest;
* work space ``4 m 3 W``, three times the largest output of a layer: oneDNN's copies, in its own layout, of a convolution's
  input, output and gradient (from measurements, see docs/plan.md; cuDNN's work space is not estimated);
* ``4 * 4 * 16 I O`` for each convolution from ``I`` to ``O`` channels that is computed as a matrix product on a CPU
  (:class:`~vggdist.models.convolution.MatrixConv2D`): its matrix before and after a transposition, and the gradients of both
  (not needed on a GPU and in bfloat16, but counted);
* evaluation ``4 v (3 I + E + O)`` with ``v`` images at once, whose buffers are separate from the training's: three forms of
  the image (``I`` numbers), the input and the output of the layer where these two are largest (``E``), and the largest
  output of a pooling (``O``) (from measurements, see docs/plan.md);
* Horovod's fusion buffer with several ranks, and with ``train.compression fp16`` a copy of the gradients, ``2 P``.

``train.precision bfloat16`` is estimated like float32; it was not measured. Not counted: the CUDA context, unused memory in
the pools, the program itself, prefetched batches, and temporary arrays of an update (of muon about five times the
largest weight that it orthogonalises). On rank 0 the checkpoint writer's copy of parameters and state is in
host memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from vggdist.config.schema import ModelConfig
from vggdist.data.data_shape import DataShape
from vggdist.models.layers import Layer, describe, suits_matrix

FLOAT32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank, by purpose."""

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int
    activation_gradients: int
    work_space: int
    matrices: int
    evaluation: int
    reduction: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.fixed + self.of_samples

    @property
    def fixed(self) -> int:
        """Bytes that do not depend on the training's batch; the matrices are needed from 64 samples on."""
        network = self.parameters + self.gradients + self.optimizer_state + self.matrices
        return network + self.evaluation + self.reduction

    @property
    def of_samples(self) -> int:
        """Bytes proportional to the samples in one forward and backward pass."""
        return self.activations + self.activation_gradients + self.work_space


def running_statistics(layers: Sequence[Layer]) -> int:
    """Number of batch normalisation's running statistics: mean and variance of each channel."""
    return 2 * sum(layer.output_shape[0] for layer in layers if layer.normalised)


def estimate(
    model: ModelConfig,
    images: DataShape,
    samples: int,
    num_states: int,
    fusion_bytes: int,
    compressed: bool,
    evaluated: int = 0,
) -> Memory:
    """The memory of a rank.

    Args:
        samples: in one forward and backward pass.
        num_states: of the optimizer for each parameter, and its average if there is one.
        fusion_bytes: Horovod's fusion buffer; 0 for a single rank.
        compressed: gradients are sent as float16.
        evaluated: images in one forward pass of an evaluation; 0 if there is none.
    """
    shape = {"channels": images.channels, "image_size": images.image_size, "num_classes": images.num_classes}
    layers = describe(model, **shape)
    image = images.channels * images.image_size**2
    parameters, trained = (sum(getattr(layer, kind) for layer in layers) for kind in ("parameters", "trained"))
    kept = image + sum(_kept(layer, model) for layer in layers)
    sizes = [image, *(prod(layer.convolved) for layer in layers)]
    widest = max(before + after for before, after in zip(sizes, sizes[1:]))
    pooled = max((prod(layer.output_shape) for layer in layers if layer.kind == "pool" or layer.unpooled), default=0)
    return Memory(
        parameters=FLOAT32 * (parameters + running_statistics(layers)),
        gradients=FLOAT32 * trained,
        optimizer_state=FLOAT32 * num_states * trained,
        activations=FLOAT32 * samples * kept,
        activation_gradients=FLOAT32 * samples * widest,
        work_space=FLOAT32 * samples * 3 * max(sizes),
        matrices=FLOAT32 * 4 * 16 * _products(model, images.channels, layers, samples),
        evaluation=FLOAT32 * evaluated * (3 * image + widest + pooled),
        reduction=fusion_bytes + (2 * trained if compressed else 0),
    )


def _products(model: ModelConfig, channels: int, layers: Sequence[Layer], samples: int) -> int:
    """Pairs of channels in the convolutions that are computed as matrix products."""
    widths = [channels, *(layer.output_shape[0] for layer in layers)]
    return sum(
        inputs * layer.output_shape[0]
        for inputs, layer in zip(widths, layers)
        if layer.kind == "convolution" and suits_matrix(model, inputs, layer.convolved, samples)
    )


def _kept(layer: Layer, model: ModelConfig) -> int:
    """Numbers of one sample that a layer stores for the backward pass."""
    size = prod(layer.output_shape)
    if layer.kind == "head" and model.head == "flatten":
        return 0  # a view of the features
    if layer.kind == "convolution":
        # GELU stores its input as well as its output.
        return prod(layer.unpooled or (0,)) + size * (1 + layer.normalised + (model.activation == "gelu"))
    if layer.kind == "dense" and layer.name != "output" and model.dropout > 0:
        return 3 * size
    return size


def largest_fit(needed: Callable[[int], Memory], samples: int, limit: float) -> int:
    """The largest number of samples at once, up to ``samples``, that fits into ``limit`` bytes; 0 if not even one does.

    Args:
        needed: the estimate for a number of samples at once.
    """
    return bisect_right(range(1, samples + 1), limit, key=lambda count: needed(count).total)
