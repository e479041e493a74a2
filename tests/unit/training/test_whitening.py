"""The first convolution that whitens."""

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from vggdist.config.errors import RequestError
from vggdist.training.whitening import whitened


def smooth_images(count: int, channels: int) -> np.ndarray:
    """Images whose neighbouring pixels and channels are correlated."""
    noise = np.random.default_rng(0).normal(size=(count, channels, 20, 20)).astype(np.float32)
    for axis in (1, 2, 3):
        noise = noise + np.roll(noise, 1, axis)
    return noise


@pytest.mark.parametrize(("channels", "filters"), [(3, 54), (3, 64), (3, 16), (1, 18)])
def test_outputs_are_uncorrelated_with_unit_variance_and_have_both_signs(channels: int, filters: int) -> None:
    pixels = smooth_images(200, channels)
    before = np.random.default_rng(1).normal(size=(filters, channels, 3, 3)).astype(np.float32)
    weight = whitened(before, pixels)
    pairs = min(filters // 2, 9 * channels)
    np.testing.assert_array_equal(weight[pairs : 2 * pairs], -weight[:pairs])
    np.testing.assert_array_equal(weight[2 * pairs :], before[2 * pairs :])
    patches = sliding_window_view(sliding_window_view(pixels, 3, axis=2), 3, axis=3)
    outputs = np.einsum("nihwkl,oikl->onhw", patches, weight[:pairs]).reshape(pairs, -1)
    covariance = outputs @ outputs.T / outputs.shape[1]
    assert weight.dtype == np.float32
    np.testing.assert_allclose(covariance, np.eye(pairs), atol=0.06)


def test_the_components_of_largest_variance_are_first() -> None:
    pixels = smooth_images(200, 3)
    weight = whitened(np.zeros((16, 3, 3, 3), np.float32), pixels)
    norms = np.linalg.norm(weight[:8].reshape(8, -1), axis=1)  # 1 / root of the eigenvalue
    assert list(norms) == sorted(norms)


def test_images_smaller_than_a_filter_are_refused() -> None:
    with pytest.raises(RequestError, match="at least 3x3 pixels, got 2x2"):
        whitened(np.zeros((16, 3, 3, 3), np.float32), smooth_images(1, 3)[:, :, :2, :2])
