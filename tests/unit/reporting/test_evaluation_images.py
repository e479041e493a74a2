"""The pictures of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vggdist.reporting.evaluation_images import THUMBNAIL, Mistake, confusion_matrix, mistakes

BLUE, RED = (8, 69, 148), (165, 15, 21)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).reshape(-1, 3)


def count(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((pixels(picture) == colour).all(axis=1).sum())


def test_right_predictions_are_blue_and_mistakes_are_red() -> None:
    right, wrong = (confusion_matrix(counts, ("a", "b"), "") for counts in (np.diag([5, 5]), np.array([[0, 5], [5, 0]])))
    assert count(right, BLUE) > 1000 and count(right, RED) == 0
    assert count(wrong, RED) > 1000 and count(wrong, BLUE) == 0


def test_a_rare_mistake_is_still_seen() -> None:
    """One image in a thousand: by its share alone the cell would be white."""
    counts = np.array([[999, 1], [0, 1000]])
    rare, none = (pixels(confusion_matrix(one, ("a", "b"), "")).astype(int) for one in (counts, np.diag([1000, 1000])))
    reddish = [int(((one[:, 0] - one[:, 1] > 20) & (one[:, 0] > 230)).sum()) for one in (rare, none)]
    assert reddish[0] > 1000 and reddish[1] == 0


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 70, 71, 200])
def test_matrices_of_any_size_are_of_a_size_that_a_browser_shows(classes: int) -> None:
    names = [f"a rather long name of class {number} that does not end soon" for number in range(classes)]
    picture = confusion_matrix(np.full((classes, classes), 123_456), names, "title")
    assert picture.mode == "RGB" and max(picture.size) < 1200


@pytest.mark.parametrize("name", ["", "two\nlines", "caf\udce9", "猫", "x" * 500, "\x1b[31m"])
def test_any_name_of_a_class_can_be_drawn(name: str) -> None:
    confusion_matrix(np.array([[3, 1], [0, 4]]), (name, "b"), "")
    mistakes([Mistake(np.zeros((8, 8, 3), np.uint8), name, name, 0.5)], "")


def test_a_class_without_images_is_an_empty_row() -> None:
    assert count(confusion_matrix(np.array([[0, 0], [0, 4]]), ("a", "b"), ""), RED) == 0


@pytest.mark.parametrize(("number", "columns", "rows"), [(1, 1, 1), (6, 6, 1), (7, 6, 2), (24, 6, 4)])
def test_mistakes_are_a_grid(number: int, columns: int, rows: int) -> None:
    image = np.full((32, 32, 3), (10, 200, 30), np.uint8)
    picture = mistakes([Mistake(image, "cat", "dog", 0.9)] * number, "")
    green = (np.asarray(picture) == (10, 200, 30)).all(axis=2)
    assert green.sum() == number * THUMBNAIL**2
    assert green.any(axis=0).sum() == columns * THUMBNAIL and green.any(axis=1).sum() == rows * THUMBNAIL


@pytest.mark.parametrize("side", [8, 28, 100, THUMBNAIL])
def test_grey_images_and_those_of_any_size_fit(side: int) -> None:
    picture = mistakes([Mistake(np.full((side, side, 1), 77, np.uint8), "a", "b", float("nan"))], "")
    grey = (np.asarray(picture) == 77).all(axis=2)
    assert grey.sum() == (THUMBNAIL // side * side) ** 2
