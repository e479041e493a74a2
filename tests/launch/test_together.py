"""The benchmark of ranks together and apart writes ratios that are consistent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.test_bench import SMALL
from tests.launching import run

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "together.py")


def test_ranks_are_measured_together_and_apart(tmp_path: Path) -> None:
    done = run("horovodrun --gloo", 2, [SCRIPT, "--turns", "3", "--steps", "2", "--json", "all.json", *SMALL], tmp_path)
    assert done.code == 0 and "controller Gloo" in done.output, done.output
    data = json.loads((tmp_path / "all.json").read_text())
    assert data["hardware"]["ranks"] == 2
    seconds = {name: series["repeats"] for name, series in data["seconds_per_step"].items()}
    ratios = {name: series["repeats"] for name, series in data["ratios"].items()}
    assert ratios["together / apart"] == [alone / both for alone, both in zip(seconds["apart"], seconds["together"])]
    assert len(ratios["in step / apart"]) == 3 and all(0 < ratio <= 1 for ratio in ratios["in step / apart"])
    product = [waiting * reducing for waiting, reducing in zip(ratios["in step / apart"], ratios["together / in step"])]
    assert product == pytest.approx(ratios["together / apart"])


def test_quartiles_of_one_turn_are_refused(tmp_path: Path) -> None:
    done = run("python", 1, [SCRIPT, "--turns", "1"], tmp_path)
    assert done.code == 2 and "two turns at least" in done.output


def test_one_rank_has_nobody_to_compare_with(tmp_path: Path) -> None:
    done = run("python", 1, [SCRIPT, *SMALL], tmp_path)
    assert done.code == 1 and "start several" in done.output
