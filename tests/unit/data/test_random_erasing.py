"""The right parts of images are filled."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from vggdist.data.random_erasing import cutout, erase
from vggdist.data.randomness import Draws


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_fills_a_square_around_its_centre(side: int) -> None:
    images = np.full((256, 16, 16, 3), 200, np.uint8)
    rows, columns = np.divmod(np.arange(256), 16)
    cut = (cutout(images, side, rows, columns, np.array([1, 2, 3], np.uint8)) == (1, 2, 3)).all(axis=-1)
    first = np.arange(16) - side // 2
    covered = np.minimum(first + side, 16) - np.maximum(first, 0)  # rows or columns that a centre's square covers
    assert cut[np.arange(256), rows, columns].all()
    np.testing.assert_array_equal(cut.sum(axis=(1, 2)), covered[rows] * covered[columns])


def test_erasing_fills_one_rectangle_of_the_papers_area_and_shape_in_some_images() -> None:
    images = np.full((4000, 64, 64, 1), 200, np.uint8)
    erased = erase(images, 0.25, np.array([9], np.uint8), Draws(0, 0, np.arange(4000)))[..., 0] == 9
    assert (images[..., 0][~erased] == 200).all()
    changed = erased[erased.any(axis=(1, 2))]
    assert abs(len(changed) / 4000 - 0.25) < 0.03
    heights, widths = changed.any(axis=2).sum(axis=1), changed.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(changed.sum(axis=(1, 2)), heights * widths)  # exactly one rectangle is filled
    areas, ratios = heights * widths / 64**2, np.log(heights / widths)
    assert stats.kstest(areas[areas < 0.2], stats.uniform(0.02, 0.18).cdf).pvalue > 0.01  # large ones fit less often
    assert areas.max() < 0.35 and abs(ratios).max() < np.log(3.3) + 0.1 and abs(ratios.mean()) < 0.1
    assert abs(changed.mean(axis=0) - changed.mean(axis=0)[::-1, ::-1]).max() < 0.1


def test_erasing_always_or_never() -> None:
    for probability in (0, 1):
        images = np.zeros((300, 32, 32, 3), np.uint8)
        changed = erase(images, probability, np.array([1, 2, 3], np.uint8), Draws(0, 0, np.arange(300))).any(axis=(1, 2, 3))
        assert changed.mean() == probability
