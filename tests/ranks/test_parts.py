"""A step that is taken apart tells which rank waits for which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launching import call

FLAGS = [
    *("--model.name", "custom", "--model.stages", "[[1, 8], [1, 8]]", "--model.hidden", "[16]", "--model.batch_norm", "true"),
    *("--data.name", "synthetic", "--data.image_size", "8", "--data.synthetic_samples", "64", "--train.batch_size", "8"),
]


@pytest.mark.parametrize("flags", [[], ["--run.deterministic", "false"], ["--train.compression", "fp16"]], ids=" ".join)
@pytest.mark.parametrize("late", [0, 1])
def test_the_ranks_wait_for_the_one_that_comes_late(flags: list[str], late: int, tmp_path: Path) -> None:
    told = call("horovodrun --gloo", 2, "parts_of_steps", tmp_path, flags=[*FLAGS, *flags], steps=4, late=late, seconds=0.4)
    punctual, tardy = told[1 - late]["parts"], told[late]["parts"]
    assert punctual["rank_wait"] > 0.2 > tardy["rank_wait"] >= 0
    assert tardy["compute"] - punctual["compute"] > 0.2
    assert 0 < punctual["allreduce"] == tardy["allreduce"]
    assert told[0]["sha256"] == told[1]["sha256"]  # the watched reductions reduce


def test_one_rank_waits_for_nobody(tmp_path: Path) -> None:
    (told,) = call("python", 1, "parts_of_steps", tmp_path, flags=FLAGS, steps=4, late=1, seconds=0)
    assert told["parts"]["rank_wait"] == told["parts"]["allreduce"] == 0 < told["parts"]["compute"]
