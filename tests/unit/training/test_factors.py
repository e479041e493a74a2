"""The factors of all ranks give the gradient of the global batch, however its samples are distributed."""

from __future__ import annotations

from collections.abc import Sequence

import mxnet as mx
import numpy as np
import pytest

from vggdist.collectives.world import World
from vggdist.models.dense import FactoredDense
from vggdist.training.factors import Factors

SAMPLES = 24
WIDTHS = ((6, 9), (4, 6))  # outputs, inputs
random = np.random.RandomState(0)
GRADIENTS = [random.randn(SAMPLES, outputs).astype(np.float32) for outputs, _ in WIDTHS]
INPUTS = [random.randn(SAMPLES, inputs).astype(np.float32) for _, inputs in WIDTHS]


class Ranks(World):
    """Ranks within this process; their rows are gathered when one of them calls."""

    def __init__(self, size: int) -> None:
        self.size, self.rank = size, 0
        self.handed: list[list[mx.nd.NDArray]] = []

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        self.handed.append([array.copy() for array in arrays])
        for out, rows in zip(outs, zip(*self.handed)):
            if len(self.handed) == self.size:
                out[:] = mx.nd.concat(*rows, dim=0)


def layers() -> list[FactoredDense]:
    made = [FactoredDense(outputs, in_units=inputs, prefix=f"layer{outputs}_") for outputs, inputs in WIDTHS]
    for layer in made:
        layer.initialize()
    return made


def summed(ranks: int, accumulation: int = 1, compressed: bool = False) -> dict[str, np.ndarray]:
    """The gradients that the last of several ranks computes."""
    world, share = Ranks(ranks), SAMPLES // ranks
    for rank in range(ranks):
        factors = Factors(world, layers(), share, accumulation, compressed)
        part = share // accumulation
        for start in range(rank * share, (rank + 1) * share, part):
            for offset, gradient in zip(factors.offsets, GRADIENTS):
                offset.grad[:] = gradient[start : start + part]
            factors.store([mx.nd.array(seen[start : start + part]) for seen in INPUTS])
        factors.gather()
    factors.multiply()
    return {name: gradient.asnumpy() for name, gradient in factors.gradients.items()}


def expected() -> dict[str, np.ndarray]:
    found = {}
    for (outputs, _), gradient, seen in zip(WIDTHS, GRADIENTS, INPUTS):
        exact = gradient.astype(np.float64)
        found[f"layer{outputs}_bias"] = exact.sum(axis=0)
        found[f"layer{outputs}_weight"] = exact.T @ seen
    return found


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 1), (1, 4), (2, 1), (2, 3), (3, 2), (4, 1), (8, 1)])
def test_the_sum_is_that_of_the_global_batch_with_the_same_bits_on_any_number_of_ranks(ranks: int, accumulation: int) -> None:
    alone, shared = summed(1), summed(ranks, accumulation)
    for name, exact in expected().items():
        np.testing.assert_allclose(alone[name], exact, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(shared[name], alone[name])


def test_compressed_factors_keep_the_precision_of_float16() -> None:
    halved = summed(2, compressed=True)
    for name, exact in expected().items():
        error = np.abs(halved[name] - exact).max()
        assert 0 < error < 2e-3 * np.abs(exact).max()


def names(factors: Factors) -> Sequence[str]:
    return list(factors.gradients)


def test_weights_and_biases_lose_their_own_gradients() -> None:
    made = layers()
    factors = Factors(Ranks(2), made, 4, 2, compressed=False)
    assert names(factors) == ["layer6_bias", "layer6_weight", "layer4_bias", "layer4_weight"]
    assert {parameter.grad_req for layer in made for parameter in (layer.weight, layer.bias)} == {"null"}
    assert [offset.shape for offset in factors.offsets] == [(2, 6), (2, 4)]


def test_without_layers_there_is_nothing_to_do() -> None:
    factors = Factors(Ranks(2), [], 4, 1, compressed=False)
    factors.store([])
    factors.gather()
    factors.multiply()
    assert not factors.gradients and not factors.offsets
