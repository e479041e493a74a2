"""Samples are mixed in the shares that are told."""

from __future__ import annotations

import numpy as np
import pytest

from vggdist.data.mix import beta_quantiles


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 1000.0])
def test_mixup_weights_are_finite_for_any_alpha(alpha: float) -> None:
    weights = beta_quantiles(alpha, np.linspace(0, 1 - 2**-53, 1001))
    assert ((weights >= 0) & (weights <= 1)).all()
