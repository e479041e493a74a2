"""Random crops have the distribution of their paper for images of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from vggdist.config.images import AugmentConfig
from vggdist.data import crop_boxes
from vggdist.data.randomness import Draws


def test_random_crops_stay_inside_with_uniform_areas_and_log_uniform_ratios() -> None:
    config = AugmentConfig(crop_scale=(0.1, 0.5), crop_ratio=(0.5, 2.0))
    drawn = crop_boxes.box_draws(Draws(0, 0, np.arange(3000)), "crop")
    top, left, height, width = np.array([crop_boxes.random_box(600, 600, config, draws) for draws in drawn]).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 600).all() and (left + width <= 600).all()
    areas, ratios = height * width / 600**2, width / height
    slack = 0.02  # sides are whole pixels
    assert 0.1 - slack < areas.min() and areas.max() < 0.5 + slack
    assert 0.5 - slack < ratios.min() and ratios.max() < 2 + slack
    assert stats.kstest(areas, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    assert stats.kstest(np.log2(ratios), stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(top / (600 - height), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(areas, ratios)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 401, (0, 194, 10, 13)), (401, 10, (194, 0, 13, 10)), (1, 1, (0, 0, 1, 1))]
)
def test_extreme_shapes_get_the_largest_central_crop(height: int, width: int, expected: tuple[int, ...]) -> None:
    config = AugmentConfig(crop_scale=(0.9, 1.0))
    for draws in crop_boxes.box_draws(Draws(0, 0, np.arange(20)), "crop"):
        assert crop_boxes.random_box(height, width, config, draws) == expected


def test_scale_jitter_crops_as_much_as_a_short_side_of_any_length_between_would_leave() -> None:
    drawn = crop_boxes.box_draws(Draws(0, 0, np.arange(5000)), "crop")
    top, left, height, width = np.array([crop_boxes.jittered_box(3750, 5000, 224, (256, 512), draws) for draws in drawn]).T
    np.testing.assert_array_equal(height, width)
    shorts = 3750 * 224 / height
    assert 256 - 0.1 < shorts.min() and shorts.max() < 512 + 0.2
    assert stats.kstest(shorts, stats.uniform(256, 256).cdf).pvalue > 0.01
    assert stats.kstest(top / (3750 - height), "uniform").pvalue > 0.01
    assert stats.kstest(left / (5000 - width), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(shorts, top / (3750 - height))[0, 1]) < 0.05


def test_without_room_the_whole_short_side_is_seen() -> None:
    for draws in crop_boxes.box_draws(Draws(0, 0, np.arange(20)), "crop"):
        assert crop_boxes.jittered_box(3, 3, 224, (224, 224), draws) == (0, 0, 3, 3)
        assert crop_boxes.jittered_box(1, 1, 224, (512, 512), draws) == (0, 0, 1, 1)
