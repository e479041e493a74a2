"""Weights of fully connected layers whose gradients each rank computes from the factors of all ranks.

The gradient of such a weight is a sum over samples of outer products, ``G^T X``; see
:class:`~vggdist.models.dense.FactoredDense`. The ranks gather the rows of ``G`` and ``X`` and each computes the sum over the
global batch, so no rank sends the whole matrix: *sufficient factors* (Xie et al. 2016, "Lighter-Communication Distributed
Machine Learning via Sufficient Factor Broadcasting"; chosen by layer in Zhang et al. 2017, "Poseidon", section 3.2). The sum
is one product over the global batch, in the order of its samples, for any number of ranks.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import mxnet as mx

from vggdist.collectives.world import Collectives
from vggdist.models.dense import FactoredDense
from vggdist.models.precision import multiply_float32


class Factors:
    """The factors of some layers.

    Sending them must not wait for the convolutions of the backward pass. So no operation here may use a work space, as
    ``concat`` and a product with a number do: in MXNet it would wait for earlier operations that share the work space.

    Attributes:
        offsets: an array of zeros for each layer, to be added to its output in the graph, with a gradient attached.
        gradients: of the layers' weights and biases by name, the sums over the global batch; see :meth:`multiply`.
        row_bytes: size of a rank's own factors.
    """

    def __init__(
        self, world: Collectives, layers: Sequence[FactoredDense], batch_size: int, accumulation: int, compressed: bool
    ) -> None:
        """Allocate the arrays; the backward pass then computes no weight and bias gradients of these layers.

        Args:
            layers: initialised, in the order of the network.
            batch_size: samples of each rank, the same on all.
            accumulation: parts that the batch is split into.
            compressed: send the factors as float16.
        """
        self._world, self._layers = world, layers
        self._part_size, self._parts = batch_size // accumulation, 0
        self._own: list[mx.nd.NDArray] = []
        self._gathered: list[mx.nd.NDArray] = []
        self.offsets: list[mx.nd.NDArray] = []
        self.gradients: dict[str, mx.nd.NDArray] = {}
        for layer in layers:
            layer.outputs_factors = True
            outputs, inputs = layer.weight.shape
            options = {"ctx": layer.weight.list_ctx()[0], "dtype": "float16" if compressed else "float32"}
            for width in (outputs, inputs):
                self._own.append(mx.nd.zeros((batch_size, width), **options))
                # Allocated once: Horovod writes into it asynchronously.
                self._gathered.append(mx.nd.zeros((world.size * batch_size, width), **options))
            self.offsets.append(mx.nd.zeros((self._part_size, outputs), ctx=options["ctx"]))
            self.offsets[-1].attach_grad()
            # The bias as well: oneDNN does not compute its gradient without the weight's.
            for parameter in (layer.bias, layer.weight):
                self.gradients[parameter.name] = mx.nd.zeros_like(parameter.data())
                parameter.grad_req = "null"
        self.row_bytes = sum(rows.size * rows.dtype(0).itemsize for rows in self._own)

    def with_collectives(self, collectives: Collectives) -> Factors:
        """The same factors with other collectives, for measurements."""
        other = copy.copy(self)
        other._world = collectives
        return other

    def store(self, inputs: Sequence[mx.nd.NDArray]) -> None:
        """Copy the factors of a part of the batch, after its backward pass.

        Args:
            inputs: input of each layer, ``(N, in_units)``.
        """
        start = self._parts * self._part_size
        self._parts += 1
        for offset, seen, g, x in zip(self.offsets, inputs, self._own[::2], self._own[1::2]):
            offset.grad.copyto(g[start : start + self._part_size])
            seen.copyto(x[start : start + self._part_size])

    def gather(self) -> None:
        """Enqueue the allgather of the rows."""
        self._parts = 0
        if self._layers and self._world.size > 1:
            self._world.allgather(self._own, self._gathered, "factors")

    def multiply(self) -> None:
        """Compute the gradients from the rows of all ranks."""
        rows = self._gathered if self._world.size > 1 else self._own
        for layer, g, x in zip(self._layers, rows[::2], rows[1::2]):
            g, x = (factor.astype("float32", copy=False) for factor in (g, x))
            multiply_float32(g.T, x.T, no_bias=True, num_hidden=x.shape[1], out=self.gradients[layer.weight.name])
            mx.nd.sum(g, axis=0, out=self.gradients[layer.bias.name])
