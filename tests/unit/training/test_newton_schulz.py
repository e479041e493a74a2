"""The iteration equals its definition in float64, for any shape, scale and rank."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from tests.newton_schulz import by_definition
from vggdist.training import newton_schulz
from vggdist.training.newton_schulz import orthogonalized

SHAPES = [(8, 72), (72, 8), (16, 16), (64, 27), (1, 5), (5, 1)]


def random_matrix(shape: tuple[int, int], singular_values: np.ndarray | None = None) -> np.ndarray:
    """A matrix of normal numbers, or of given singular values."""
    matrix = np.random.default_rng(0).standard_normal(shape)
    if singular_values is None:
        return matrix
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    return u * singular_values @ vt


def result(matrix: np.ndarray, iterations: int = 5) -> np.ndarray:
    found = orthogonalized(mx.nd.array(matrix), iterations).asnumpy()
    assert found.shape == matrix.shape and found.dtype == np.float32
    return found


@pytest.mark.parametrize("at_once", [3, 1], ids=["as-on-a-cpu", "as-on-a-gpu"])
@pytest.mark.parametrize("iterations", [1, 2, 5, 6, 12])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_definition(shape: tuple[int, int], iterations: int, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(newton_schulz._ITERATIONS_AT_ONCE, "cpu", at_once)
    matrix = random_matrix(shape)
    np.testing.assert_allclose(result(matrix, iterations), by_definition(matrix, iterations), atol=2e-5)


@pytest.mark.parametrize("shape", [(32, 288), (288, 32)], ids=str)
def test_keeps_the_singular_vectors_and_makes_their_values_nearly_1(shape: tuple[int, int]) -> None:
    matrix = random_matrix(shape, np.geomspace(1, 0.015, 32))
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    core = u.T @ result(matrix) @ vt.T
    values = np.diag(core)
    assert 0.65 < values.min() and values.max() < 1.2
    np.testing.assert_allclose(core, np.diag(values), atol=1e-3)


@pytest.mark.parametrize("exponent", [-40, -20, 20, 40])
def test_does_not_depend_on_the_scale(exponent: int) -> None:
    matrix = random_matrix((8, 72))
    np.testing.assert_allclose(result(matrix * 2.0**exponent), result(matrix), rtol=1e-6)


def test_rounding_errors_stay_small_where_singular_values_are_small_or_0() -> None:
    """Applied at once, five iterations have an error of 5e-4 here, which differs between one rank and several."""
    matrix = random_matrix((64, 576), np.concatenate([np.geomspace(1, 1e-4, 32), np.zeros(32)]))
    error = result(matrix) - by_definition(matrix.astype(np.float32).astype(np.float64), 5)
    assert np.linalg.norm(error, 2) < 5e-5


def test_zeros_stay_zeros() -> None:
    assert not result(np.zeros((8, 72))).any()


@pytest.mark.parametrize(("iterations", "limit"), [(5, 1e-3), (30, 1.2)])  # 30 orthogonalise the matrix's own rounding errors
def test_rounding_errors_do_not_grow_where_singular_values_are_0(iterations: int, limit: float) -> None:
    matrix = random_matrix((64, 576), np.array([1.0] * 8 + [0.0] * 56))
    found = np.linalg.svd(result(matrix, iterations), compute_uv=False)
    assert 0.65 < found[7] and found[0] < 1.2
    assert found[8:].max() < limit


def test_is_float32_for_any_precision_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """AMP replaces the functions of ``mx.nd`` by those that cast their arguments."""

    def cast(*arguments: object, **options: object) -> None:
        raise AssertionError("cast to bfloat16")

    for module in (mx.nd, mx.nd.op):
        monkeypatch.setattr(module, "FullyConnected", cast)
    test_equals_the_definition((8, 72), 5, 3, monkeypatch)
