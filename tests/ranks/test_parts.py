"""The parts of a step show which rank waits for which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launch.test_bench import SMALL
from tests.rank_pool import call


@pytest.mark.parametrize(
    "flags", [[], ["--train.bucket_cap_mb", "0"], ["--train.factors", "always", "--train.compression", "fp16"]], ids=" ".join
)
@pytest.mark.parametrize("late", [0, 1])
def test_a_rank_waits_for_one_that_is_late(flags: list[str], late: int, tmp_path: Path) -> None:
    results = call("horovodrun --gloo", 2, "parts_of_steps", tmp_path, flags=[*SMALL, *flags], steps=3, late=late, seconds=3)
    other, delayed = results[1 - late]["parts"], results[late]["parts"]
    assert other["rank_wait"] > delayed["rank_wait"] >= 0
    assert delayed["compute"] > other["compute"]
    assert 0 < other["allreduce"] == delayed["allreduce"]
    assert results[0]["sha256"] == results[1]["sha256"]  # the watched reductions reduce


def test_one_rank_waits_for_nobody(tmp_path: Path) -> None:
    (results,) = call("python", 1, "parts_of_steps", tmp_path, flags=SMALL, steps=4, late=1, seconds=0)
    assert results["parts"]["rank_wait"] == results["parts"]["allreduce"] == 0 < results["parts"]["compute"]


def test_steps_alone_reduce_nothing(tmp_path: Path) -> None:
    results = call("horovodrun --gloo", 2, "steps_alone", tmp_path, flags=SMALL, steps=3)
    assert [rank["reductions"] for rank in results] == [[0, 0, 0]] * 2
    assert results[0]["sha256"] != results[1]["sha256"]  # each has seen its own samples
