"""Samples are mixed with the returned weights."""

from __future__ import annotations

import numpy as np
import pytest

from vggdist.data.mixup import beta_quantiles, cutmix_box, mix
from vggdist.data.randomness import Draws


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 1000.0])
def test_mixup_weights_are_finite_for_any_alpha(alpha: float) -> None:
    weights = beta_quantiles(np.full(1001, alpha), np.linspace(0, 1 - 2**-53, 1001))
    assert ((weights >= 0) & (weights <= 1)).all()


def test_a_cutmix_box_has_the_share_of_its_weight_and_is_cut_at_the_border() -> None:
    assert cutmix_box(100, 0.75, 50, 50) == (25, 25, 50, 50)
    assert cutmix_box(100, 0.75, 0, 99) == (0, 74, 25, 26)
    assert cutmix_box(100, 0.0, 50, 50) == (0, 0, 100, 100)
    assert cutmix_box(100, 1.0, 50, 50)[2:] == (0, 0)


def _mixed(mixup: float, cutmix: float, count: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Black images with white ones mixed in, and the weights."""
    images, others = np.zeros((count, 20, 20, 1), np.uint8), np.full((count, 20, 20, 1), 255, np.uint8)
    shares = mix(images, others, mixup, cutmix, Draws(0, 0, np.arange(count)))
    assert shares.dtype == np.float32
    return images, shares


def test_cutmix_pastes_a_box_and_returns_its_true_area() -> None:
    images, shares = _mixed(0, 1)
    assert set(np.unique(images)) == {0, 255}
    np.testing.assert_allclose(shares, (images == 0).mean(axis=(1, 2, 3)), atol=1e-6)
    white = images[..., 0] == 255
    np.testing.assert_array_equal(white.sum(axis=(1, 2)), white.any(axis=2).sum(axis=1) * white.any(axis=1).sum(axis=1))
    assert (white[:, 0, 0].mean() > 0.05) and (white[:, -1, -1].mean() > 0.05)  # boxes extend beyond the border


def test_cutmix_and_mixup_together_take_half_of_the_samples_each() -> None:
    images, shares = _mixed(1, 1)
    alike = []
    for alone, shares_alone in (_mixed(1, 0), _mixed(0, 1)):
        alike.append((images == alone).all(axis=(1, 2, 3)) & (shares == shares_alone))
        assert abs(alike[-1].mean() - 0.5) < 0.05
    assert (alike[0] != alike[1]).all()
