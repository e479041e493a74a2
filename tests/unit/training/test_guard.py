"""A skipped step restores the arrays bit for bit, another step does not change them; the device decides."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from vggdist.training.guard import Guard, all_finite

SHAPES = [(3,), (2, 5), (4, 2, 3, 3), (1,)]


@pytest.mark.parametrize("finite", [0, 1])
def test_the_arrays_are_restored_only_after_a_step_that_is_left_out(finite: int) -> None:
    before = [np.random.default_rng(number).normal(size=shape).astype(np.float32) for number, shape in enumerate(SHAPES)]
    arrays = [mx.nd.array(values) for values in before]
    guard = Guard(arrays)
    for _ in range(2):
        guard.save()
        for array in arrays:
            array[:] = np.nan if finite == 0 else array + 1
        guard.restore_unless(mx.nd.array([finite]))
    for array, values in zip(arrays, before):
        np.testing.assert_array_equal(array.asnumpy(), values if finite == 0 else values + 1 + 1)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_a_value_that_is_not_finite_is_found_in_any_array(value: float, place: int) -> None:
    arrays = [mx.nd.ones((4, 5)) for _ in range(3)]
    arrays[place][3, 4] = value
    found = all_finite(arrays)
    assert found.shape == (1,) and found.asscalar() == np.isfinite(value)
