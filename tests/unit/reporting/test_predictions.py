"""A prediction is one line, for any name of the image."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest

from vggdist.reporting.predictions import Lines

NAMES = ("cat", "dog, small", "owl")
VALUES = np.array([0.25, 0.70000001, 0.04999999])
ODD = Path(os.fsdecode(b'a\n\xff,".png'))


def test_a_table_is_aligned_and_ends_with_the_name() -> None:
    lines = Lines("table", NAMES, top=2)
    assert lines.header == ""
    assert lines.of(Path("x/1.png"), VALUES) == "dog, small  70.00 %  cat         25.00 %  x/1.png\n"
    assert lines.of(ODD, VALUES).endswith('  a\\n\\xff,".png\n')


def test_csv_has_a_header_and_a_row_for_each_image() -> None:
    lines = Lines("csv", NAMES, top=2)
    text = lines.header + lines.of(Path("1.png"), VALUES) + lines.of(ODD, VALUES)
    header, first, second = csv.reader(text.splitlines())
    assert header == ["image", "class_1", "probability_1", "class_2", "probability_2"]
    assert first == ["1.png", "dog, small", "0.7", "cat", "0.25"] and second[0] == 'a\\n\\xff,".png'


def test_json_is_an_object_on_each_line() -> None:
    line = Lines("json", NAMES, top=9).of(ODD, VALUES)
    assert line.count("\n") == 1 and line.isascii()
    found = json.loads(line)
    assert found["image"] == 'a\n\\xff,".png'
    assert found["predictions"] == [
        {"class": "dog, small", "probability": 0.7},
        {"class": "cat", "probability": 0.25},
        {"class": "owl", "probability": 0.05},
    ]


@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_equally_probable_classes_keep_their_order(form: str) -> None:
    line = Lines(form, ("b", "a", "c"), top=2).of(Path("i"), np.array([0.4, 0.4, 0.2]))
    assert line.index("b") < line.index("a", line.index("b")) and "c," not in line and '"c"' not in line
