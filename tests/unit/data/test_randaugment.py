"""RandAugment's operations equal Pillow's, have torchvision's ranges, and are equally likely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.images import noise, photograph
from vggdist.data.operations import autocontrast, equalize, rotate
from vggdist.data.randaugment import operations_at, randaugment
from vggdist.data.randomness import Draws

_SIDE = 100
_SIGNS = (1, -1)


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


# In the order of torchvision's list, with its figures for magnitude m of 30: Pillow's operation, and the levels
# by which a pixel may differ. Translations are at most 150/331 of 100 pixels, rounded down.
_PILLOW: dict[str, tuple[Callable[[Image.Image, float, int], Image.Image], int]] = {
    "identity": (lambda image, m, sign: image, 0),
    "shear x": (lambda image, m, sign: _affine(image, (1, sign * 0.3 * m / 30, 0, 0, 1, 0)), 0),
    "shear y": (lambda image, m, sign: _affine(image, (1, 0, 0, sign * 0.3 * m / 30, 1, 0)), 0),
    "translate x": (lambda image, m, sign: _affine(image, (1, 0, -sign * int(45.317 * m / 30), 0, 1, 0)), 0),
    "translate y": (lambda image, m, sign: _affine(image, (1, 0, 0, 0, 1, -sign * int(45.317 * m / 30))), 0),
    "rotate": (lambda image, m, sign: image.rotate(sign * m, Image.Resampling.NEAREST), 0),
    "brightness": (lambda image, m, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.9 * m / 30), 1),
    "color": (lambda image, m, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.9 * m / 30), 1),
    "contrast": (lambda image, m, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.9 * m / 30), 1),
    "sharpness": (lambda image, m, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.9 * m / 30), 1),
    "posterize": (lambda image, m, sign: ImageOps.posterize(image, 8 - round(m / 30 * 4)), 0),
    "solarize": (lambda image, m, sign: ImageOps.solarize(image, 255 - 255 * m / 30), 0),  # type: ignore[arg-type]
    "autocontrast": (lambda image, m, sign: ImageOps.autocontrast(image), 0),
    "equalize": (lambda image, m, sign: ImageOps.equalize(image), 0),
}


def _as_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image.squeeze())


@pytest.mark.parametrize("name", list(_PILLOW))
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_is_pillows(name: str, channels: int) -> None:
    image = photograph(_SIDE, channels)
    pillows, tolerance = _PILLOW[name]
    for magnitude in (0, 1, 9, 17, 30):
        for operation, sign in zip(operations_at(magnitude, _SIDE)[list(_PILLOW).index(name)], _SIGNS, strict=True):
            before = image.copy()
            expected = np.asarray(pillows(_as_pillow(image), magnitude, sign)).reshape(image.shape)
            result = operation(image)
            assert result.dtype == np.uint8 and result.shape == image.shape
            assert np.abs(result.astype(int) - expected).max() <= tolerance, (magnitude, sign)
            np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("place", range(len(_PILLOW)))
def test_an_operation_with_a_direction_changes_a_photograph_in_two_ways(place: int) -> None:
    image = photograph(_SIDE)
    one, other = (operation(image) for operation in operations_at(30, _SIDE)[place])
    assert np.array_equal(one, other) == (place in (0, 10, 11, 12, 13))
    assert np.array_equal(one, image) == (place == 0)


def test_without_magnitude_nothing_is_moved_or_blended() -> None:
    image = photograph(_SIDE)
    for ways in operations_at(0, _SIDE)[:10]:
        for operation in ways:
            np.testing.assert_array_equal(operation(image), image)


@pytest.mark.parametrize("side", [7, 31, 225])
@pytest.mark.parametrize("degrees", [90, -30, 1.7, 180])
def test_images_of_any_side_turn_as_in_pillow(side: int, degrees: float) -> None:
    image = noise(side, side, 3)
    np.testing.assert_array_equal(rotate(image, degrees), np.asarray(Image.fromarray(image).rotate(degrees)))


@pytest.mark.parametrize(
    "image",
    [
        np.full((8, 8, 3), 77, np.uint8),
        np.repeat([[[0, 9, 255]]], 64, axis=0).reshape(8, 8, 3).astype(np.uint8),
        (np.arange(64).reshape(8, 8, 1) // 60 * 3).astype(np.uint8),
        (np.arange(48 * 48).reshape(48, 48, 1) % 256).astype(np.uint8),
        noise(40, 40, 3) // 9 + 100,
    ],
    ids=["one level", "one level a channel", "few pixels", "all levels", "low contrast"],
)
def test_images_with_few_levels_are_stretched_and_equalized_as_in_pillow(image: np.ndarray) -> None:
    for ours, pillows in ((autocontrast, ImageOps.autocontrast), (equalize, ImageOps.equalize)):
        np.testing.assert_array_equal(ours(image), np.asarray(pillows(_as_pillow(image))).reshape(image.shape))


def test_each_operation_is_as_likely_in_each_direction_and_place() -> None:
    image, samples = photograph(16), 3000
    results = randaugment(np.repeat(image[None], samples, axis=0), 1, 30, Draws(0, 0, np.arange(samples)))
    outcomes = [{operation(image).tobytes() for operation in ways} for ways in operations_at(30, 16)]
    outputs = [result.tobytes() for result in results]
    for outcome in outcomes:
        for way in outcome:
            expected = samples / 14 / len(outcome)
            assert abs(outputs.count(way) - expected) < 5 * np.sqrt(expected)


def test_operations_follow_one_another() -> None:
    image = photograph(16)
    draws = Draws(1, 2, np.arange(200))
    once = randaugment(np.repeat(image[None], 200, axis=0), 1, 20, draws)
    twice = randaugment(np.repeat(image[None], 200, axis=0), 2, 20, draws)
    table = operations_at(20, 16)
    for first, second in zip(once, twice, strict=True):
        assert any(np.array_equal(operation(first), second) for ways in table for operation in ways)
