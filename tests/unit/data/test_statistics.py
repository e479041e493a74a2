"""Mean and standard deviation are those of all pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.images import mixed_sizes, one_size
from vggdist.config.errors import RequestError
from vggdist.data.dataset import ArraySource
from vggdist.data.statistics import statistics, value_counts


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("source", [one_size(2500, 5), one_size(2, 7, 1), mixed_sizes(), mixed_sizes(channels=1)])
def test_statistics_of_any_number_of_parts_are_numpys_over_all_pixels(source: Any, parts: int) -> None:
    pixels = np.concatenate([image.reshape(-1, source.channels) for image in source.images]) / 255
    mean, std = statistics(sum(value_counts(source, part, parts) for part in range(parts)))  # type: ignore[arg-type]
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)


def test_statistics_refuse_a_channel_without_contrast() -> None:
    source = ArraySource(np.full((2, 3, 3, 1), 7, np.uint8), np.zeros(2, np.int32), ("a",))
    with pytest.raises(RequestError, match=r"augment\.normalize computed"):
        statistics(value_counts(source))
