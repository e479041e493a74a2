"""Images that are passed to the Python API become a data set, or are rejected with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.images import mixed_sizes, noise
from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data.arrays import ArraySource
from vggdist.data.dataset import load
from vggdist.data.in_memory import data_set

LABELS = np.arange(40) % 4
DATA = DataConfig(name="given")
NAMES = {"train": ("a", "b"), "test": ("b", "a")}


def test_a_share_of_each_class_is_held_out_of_one_part() -> None:
    data = data_set((noise(40, 6, 6), LABELS), DataConfig(name="given", held_out=0.2, validation=0.25), seed=1)
    assert {name: len(part) for name, part in data.parts.items()} == {"train": 24, "validation": 8, "test": 8}
    assert data.train.image_shape == (6, 6, 1) and data.train.class_names == ("0", "1", "2", "3")
    assert all(np.bincount(part.labels).tolist() == [len(part) // 4] * 4 for part in data.parts.values())


def test_parts_are_taken_as_they_are_named() -> None:
    zeros = np.zeros(4, np.int64)
    data = data_set({"train": (noise(40, 6, 6, 3), LABELS), "test": (noise(4, 6, 6, 3), zeros)}, DATA, seed=1)
    assert len(data.train) == 40 and len(data.test) == 4 and data.test.class_names == ("0", "1", "2", "3")
    assert data.identity["train"]["contents"] != data.identity["test"]["contents"]


def test_a_source_of_ones_own() -> None:
    data = data_set(mixed_sizes(), DataConfig(name="given", held_out=0.5), seed=0)
    assert len(data.train) == len(data.test) == 6 and data.train.class_names == ("a", "b")
    names = {part.name(index) for part in (data.train, data.test) for index in range(6)}
    assert names == set(map(str, range(12)))
    assert data.train.read(0).ndim == 3


def test_channels_follow_the_request() -> None:
    data = data_set((noise(40, 6, 6, 3), LABELS), DataConfig(name="given", channels=1), seed=0)
    assert isinstance(data.train, ArraySource) and data.train.images.shape[1:] == (6, 6, 1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((noise(40, 6, 6), LABELS[:5]), r"images of the train part are uint8 \(40, 6, 6, 1\) with 5 labels"),
        ((noise(40, 6, 6).astype(float), LABELS), "images of the train part are float64"),
        ((noise(40, 6, 6, 4), LABELS), r"uint8 \(40, 6, 6, 4\)"),
        ((noise(40, 6, 6), LABELS - 1), "labels of the train part are int64"),
        ((noise(40, 6, 6), LABELS / 2), "labels of the train part are float64"),
        ((noise(40, 6, 6),), "the train part has 1 entries; expected images and labels"),
        ({"test": (noise(40, 6, 6), LABELS)}, "data has the parts test; expected train"),
        ({"train": (noise(40, 6, 6), LABELS), "dev": (noise(40, 6, 6), LABELS)}, "the parts train, dev; expected"),
        ((noise(4, 6, 6), np.arange(4)), "data.held_out 0.2 holds out no image: each class has one"),
        ((noise(40, 6, 6), LABELS * 0), "data: there is only one class, 0"),
        (
            {"train": (noise(40, 6, 6), LABELS), "test": (noise(40, 6, 6), LABELS + 1)},
            r"data: the test set has images of 1 class \(4\) without training images",
        ),
        (
            {"train": (noise(40, 6, 6), LABELS), "test": (noise(40, 6, 6, 3), LABELS)},
            "data: the test part has the channels 3, and the train part 1; make them equal",
        ),
        (
            {
                "train": ArraySource(noise(40, 6, 6), LABELS % 2, ("a", "b")),
                "test": ArraySource(noise(8, 6, 6), LABELS[:8] % 2, ("b", "a")),
            },
            r"data: the test part has the classes \('b', 'a'\), and the train part \('a', 'b'\)",
        ),
    ],
)
def test_what_is_no_data_set_is_refused(inputs: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        data_set(inputs, DATA, seed=0)


def test_the_command_line_has_no_such_images() -> None:
    with pytest.raises(RequestError, match="data.name is given: the train and test images come from a Python program"):
        load(DATA, 0)
