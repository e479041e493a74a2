"""A fully connected layer that can output the gradient of its weight as two thin matrices."""

from __future__ import annotations

from typing import Any

from mxnet import gluon
from mxnet.gluon import nn


class FactoredDense(nn.Dense):
    """``(N, in_units)`` to ``(N, units)``, as :class:`mxnet.gluon.nn.Dense`, with the same parameters under the same names.

    The gradient of the weight ``(units, in_units)`` is a product, ``G^T X``, of the gradient of the output, ``G``
    ``(N, units)``, and the input, ``X`` ``(N, in_units)``. A graph that is built while ``offset`` is set adds it to the
    output. An array of zeros does not change the output, and its gradient is ``G``. ``X`` is then in ``seen``.

    Attributes:
        outputs_factors: whether the training uses the factors of this layer.
    """

    outputs_factors = False
    offset: Any = None
    seen: Any = None

    def hybrid_forward(self, F: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        """``x weight^T + bias``, plus the offset if it is set."""
        y = super().hybrid_forward(F, x, weight, bias)
        if self.offset is None:
            return y
        self.seen = x
        return y + self.offset


def fully_connected(network: gluon.Block) -> list[FactoredDense]:
    """The fully connected layers, in the order of the network."""
    blocks: list[gluon.Block] = []
    network.apply(blocks.append)
    return [block for block in blocks if isinstance(block, FactoredDense)]
