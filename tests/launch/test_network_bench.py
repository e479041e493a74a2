"""Ways to send gradients are measured over hosts of this machine, and send the bytes that the plan computes."""

from __future__ import annotations

import json
from pathlib import Path

import hosts
import pytest

from tests.launching import run

SCRIPT = str(Path(__file__).parents[2] / "benchmarks" / "network.py")
QUICK = ["--repeats", "1", "--steps", "4", "--warmup", "2", "--batch-size", "8", "--gbit", "1", "--json", "all.json"]
SMALL = ["--model.width_divisor", "3", "--model.hidden", "[1024]", "--data.synthetic_samples", "64"]


@pytest.mark.skipif(hosts.missing() is not None, reason=hosts.missing() or "")
def test_what_each_way_sends_is_what_the_plan_says(tmp_path: Path) -> None:
    done = run("python", 1, [SCRIPT, *QUICK, "alone", "one-group", "factors-fp16", *SMALL], tmp_path)
    assert done.code == 0 and "2 hosts, 1 Gbit/s, vgg11, 8 a rank, n = 1" in done.output, done.output
    ways = json.loads((tmp_path / "all.json").read_text())["ways"]
    assert ways["alone"]["sent"] is None and ways["alone"]["ratio"]["median"] == 1
    for way in ("one-group", "factors-fp16"):
        assert ways[way]["sent"]["median"] == pytest.approx(ways[way]["planned"], rel=0.05)
        assert ways[way]["step_s"] > 0 and ways[way]["predicted_s"] > 0 and 0 < ways[way]["of_limit"]
    assert ways["factors-fp16"]["planned"] < ways["one-group"]["planned"]


def test_one_host_is_no_network(tmp_path: Path) -> None:
    done = run("python", 1, [SCRIPT, "--hosts", "1"], tmp_path)
    assert done.code == 2 and "two hosts at least" in done.output
