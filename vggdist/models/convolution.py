"""Convolutions that are computed otherwise than Gluon does, because oneDNN is slow there."""

from __future__ import annotations

from typing import Any

from mxnet.gluon import nn

from vggdist.models.precision import convolve_float32


class Float32Conv2D(nn.Conv2D):
    """A convolution in float32, also where AMP computes the others in bfloat16.

    With fewer than 16 input channels oneDNN's bfloat16 convolution returns pixels in NCHW order instead of its own blocks of
    16 channels, and its batch normalisation of that order takes 12 times as long.
    """

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        """The convolution of ``x`` ``(N, I, H, W) float32`` with ``weight`` ``(O, I, 3, 3)``, plus ``bias`` ``(O,)``."""
        biases = [] if bias is None else [bias]
        return convolve_float32[F](x, weight, *biases, name="fwd", **self._kwargs)


class MatrixConv2D(nn.Conv2D):
    """A 3x3 convolution with padding 1 over 2x2 pixels: ``(N, I, 2, 2)`` to ``(N, O, 2, 2)``, both ``float32``.

    Of the 36 products of a weight and a pixel 20 are with padding, and oneDNN computes them. Without them, every output of a
    sample is a weighted sum of all inputs: a fully connected layer, whose ``(4 O, 4 I)`` matrix contains each weight once
    for each pair of pixels that it connects. Parameters, their names and initial values are those of
    :class:`mxnet.gluon.nn.Conv2D`; results and gradients differ by rounding. The matrix is built in each pass, so this is
    faster only with more than a few samples: see :func:`~vggdist.models.layers.suits_matrix`.
    """

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__(channels, kernel_size=3, padding=1, **options)

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        """The convolution of ``x`` with ``weight`` ``(O, I, 3, 3)``, plus ``bias`` ``(O,)``."""
        # Selecting weights by a product with zeros and ones is exact, and on oneDNN several times as fast as slicing.
        offsets = F.reshape(F.eye(9), shape=(3, 3, 9))
        seen_from = [
            F.slice(offsets, begin=(1 - row, 1 - column), end=(3 - row, 3 - column)) for row in (0, 1) for column in (0, 1)
        ]
        selection = F.reshape(F.concat(*seen_from, dim=0), shape=(16, 9))
        selected = F.FullyConnected(F.reshape(weight, shape=(-1, 9)), selection, no_bias=True, num_hidden=16)
        by_pixel = F.transpose(F.reshape(selected, shape=(self._channels, -1, 4, 4)), axes=(0, 2, 1, 3))
        matrix = F.reshape(by_pixel, shape=(4 * self._channels, -1))
        biases = [] if bias is None else [F.repeat(bias, repeats=4)]
        y = F.FullyConnected(x, matrix, *biases, no_bias=bias is None, num_hidden=4 * self._channels)
        return F.reshape(y, shape=(0, self._channels, 2, 2))
