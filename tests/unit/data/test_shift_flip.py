"""Images are shifted and flipped as specified."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from tests.images import noise
from vggdist.config.images import PadMode
from vggdist.data.shift_flip import pad_crop


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
