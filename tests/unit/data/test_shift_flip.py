"""Images are shifted, flipped and viewed as specified."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from tests.images import noise
from vggdist.config.images import PadMode
from vggdist.data.shift_flip import pad_crop, with_views


@pytest.mark.parametrize("mode", get_args(PadMode))
@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_is_a_slice_of_the_padded_image(channels: int, mode: PadMode) -> None:
    images = noise(81, 6, 7, channels)
    tops, lefts = np.divmod(np.arange(81), 9)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode)
    for image, result, top, left in zip(padded, pad_crop(images, 4, tops, lefts, mode), tops, lefts, strict=True):
        np.testing.assert_array_equal(result, image[top : top + 6, left : left + 7])


def test_a_reflected_border_repeats_no_pixel_of_the_image_s_border() -> None:
    image = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8).reshape(1, 3, 3, 1)
    upper_left, lower_right = (pad_crop(image, 2, np.array([top]), np.array([top]), "reflect")[0, ..., 0] for top in (0, 4))
    assert upper_left.tolist() == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]
    assert lower_right.tolist() == [[9, 8, 7], [6, 5, 4], [3, 2, 1]]


_VIEWS = [
    [[1, 2, 3], [4, 5, 6]],
    [[3, 2, 1], [6, 5, 4]],
    [[5, 6, 5], [2, 3, 2]],  # to the upper left: row 2, and column 3, are mirrored
    [[5, 6, 5], [2, 3, 2]],  # its mirror image
    [[5, 4, 5], [2, 1, 2]],  # to the lower right
    [[5, 4, 5], [2, 1, 2]],
]


@pytest.mark.parametrize("views", [1, 2, 6])
def test_the_views_of_a_small_image_are_these(views: int) -> None:
    image = np.array(_VIEWS[0], np.uint8).reshape(1, 2, 3, 1)
    assert with_views(image, views)[..., 0].tolist() == _VIEWS[:views]


def test_the_views_of_a_larger_image_are_mirrored_and_shifted_by_one_pixel() -> None:
    image = np.arange(1, 21, dtype=np.uint8).reshape(1, 4, 5, 1)
    _, mirror, upper_left, mirror_of_it, lower_right, last = with_views(image, 6)[..., 0].tolist()
    assert mirror[0] == [5, 4, 3, 2, 1]
    assert upper_left == [[7, 8, 9, 10, 9], [12, 13, 14, 15, 14], [17, 18, 19, 20, 19], [12, 13, 14, 15, 14]]
    assert lower_right == [[7, 6, 7, 8, 9], [2, 1, 2, 3, 4], [7, 6, 7, 8, 9], [12, 11, 12, 13, 14]]
    assert [row[::-1] for row in mirror_of_it] == upper_left and [row[::-1] for row in last] == lower_right


def test_the_views_of_an_image_stand_together_in_colour() -> None:
    images = noise(3, 7, 7, 3)
    both = with_views(images, 6)
    np.testing.assert_array_equal(both, np.concatenate([with_views(image[None], 6) for image in images]))
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    np.testing.assert_array_equal(both[2::6], padded[:, 2:, 2:])
    np.testing.assert_array_equal(both[5::6], padded[:, :7, 6::-1])
