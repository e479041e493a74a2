"""Orthogonalisation of a matrix by a quintic Newton-Schulz iteration, for Muon."""

from __future__ import annotations

import mxnet as mx
from mxnet.ndarray import NDArray

from vggdist.models.precision import multiply_float32
from vggdist.training.norms import sum_of_squares

# An iteration maps a singular value s to a s + b s^3 + c s^5. The coefficients maximise the slope at 0, not the accuracy: five
# iterations map values from 0.01 to 1 to values between 0.68 and 1.14, and the smallest to 480 times as much (Jordan et al.
# 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
# Iterations on X X^T before they are applied to X. Rounding errors of X X^T grow by up to a^2 = 12 in each: with 3 the result
# is as exact as with 1, with 5 its error is 20 to 70 times as large, and so is the difference of one rank from several. A GPU
# may round to TF32, and has operations to spare: there X X^T is computed anew in each iteration.
_ITERATIONS_AT_ONCE = {"cpu": 3, "gpu": 1}


def orthogonalized(matrix: NDArray, iterations: int) -> NDArray:
    """About ``U V^T`` for a matrix ``U S V^T``, ``(rows, columns) float32``, on its device, without a wait.

    The matrix is divided by its norm first, so the result does not depend on its scale; that of zeros is zeros.

    An iteration is ``X = Q X`` with ``Q = a I + b G + c G^2`` and ``G = X X^T``. ``Q`` and ``G`` commute, so the next ``G`` is
    ``Q^2 G``, and several iterations need products with ``X`` only at their beginning and end. On a CPU five iterations for
    9 times as many columns as rows, as in a convolution of as many input as output channels, then need half the operations.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    norm = mx.nd.maximum(sum_of_squares(matrix).sqrt(), 1e-18)
    x = mx.nd.broadcast_div(matrix.T if is_tall else matrix, norm.reshape((1, 1)))
    while iterations > 0:
        count = min(iterations, _ITERATIONS_AT_ONCE[x.context.device_type])
        x = _times_transposed(_factor(_times_transposed(x, x), count), x.T)
        iterations -= count
    return x.T if is_tall else x


def _factor(gram: NDArray, iterations: int) -> NDArray:
    """The product of the factors ``Q`` of some iterations, from ``X X^T`` before them."""
    identity = mx.nd.eye(gram.shape[0], ctx=gram.context)
    product = None
    for remaining in reversed(range(iterations)):
        factor = _A * identity + _B * gram + _C * _times_transposed(gram, gram)
        product = factor if product is None else _times_transposed(factor, product)
        if remaining:
            gram = _times_transposed(factor, _times_transposed(factor, gram))
    assert product is not None
    return product


def _times_transposed(x: NDArray, y: NDArray) -> NDArray:
    """``x y^T``; all square matrices here are symmetric, so it is also their product."""
    return multiply_float32(x, y, no_bias=True, num_hidden=y.shape[0])
