"""Parts of images are filled where they should be."""

from __future__ import annotations

import numpy as np
import pytest

from vggdist.data.erase import cutout


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_fills_a_square_around_its_centre(side: int) -> None:
    images = np.full((256, 16, 16, 3), 200, np.uint8)
    rows, columns = np.divmod(np.arange(256), 16)
    cut = (cutout(images, side, rows, columns, np.array([1, 2, 3], np.uint8)) == (1, 2, 3)).all(axis=-1)
    first = np.arange(16) - side // 2
    covered = np.minimum(first + side, 16) - np.maximum(first, 0)  # rows or columns that a centre's square covers
    assert cut[np.arange(256), rows, columns].all()
    np.testing.assert_array_equal(cut.sum(axis=(1, 2)), covered[rows] * covered[columns])
