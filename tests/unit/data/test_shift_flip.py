"""Images are shifted and flipped as specified."""

from __future__ import annotations

import numpy as np
import pytest

from tests.images import noise
from vggdist.data.shift_flip import pad_crop


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_is_a_slice_of_the_padded_image(channels: int) -> None:
    images = noise(81, 6, 7, channels)
    tops, lefts = np.divmod(np.arange(81), 9)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for image, result, top, left in zip(padded, pad_crop(images, 4, tops, lefts), tops, lefts, strict=True):
        np.testing.assert_array_equal(result, image[top : top + 6, left : left + 7])
