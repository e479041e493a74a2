"""The benchmark of ranks together and apart tells ratios that belong together."""

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
    told = json.loads((tmp_path / "all.json").read_text())
    assert told["hardware"]["ranks"] == 2 and len(told["seconds_per_step"]) == 3
    for turn, *ratios in zip(told["seconds_per_step"], *told["ratios"].values()):
        together, in_step, reduction = ratios
        assert 0 < turn["apart"] <= turn["in step"] and in_step <= 1
        assert together == pytest.approx(turn["apart"] / turn["together"]) == pytest.approx(in_step * reduction)


def test_one_rank_has_nobody_to_compare_with(tmp_path: Path) -> None:
    done = run("python", 1, [SCRIPT, *SMALL], tmp_path)
    assert done.code == 1 and "start several" in done.output
