"""Findings from the ranks' reports."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vggdist.diagnosis.findings import Finding, RankReport, of_allreduce, of_disk, of_ranks, place_map

SOUND = RankReport(0, "n1", 0, "cpu(0)", None, None, [0, 1], 1, "eth0", 100.0, 2**30, {"mxnet": "1.9.1"})
TWO = [SOUND, replace(SOUND, rank=1, local_rank=1)]
GPUS = [replace(one, device=f"gpu({one.rank})", gpu="A100 8.0") for one in TWO]


def problems(reports: list[RankReport], wanted: str = "auto") -> list[Finding]:
    return [finding for finding in of_ranks(reports, wanted) if finding.level != "ok"]


@pytest.mark.parametrize("reports", [[SOUND], TWO, GPUS])
def test_sound_ranks_have_no_problems(reports: list[RankReport]) -> None:
    assert problems(reports) == []


@pytest.mark.parametrize(
    ("second", "level", "what"),
    [
        ({"versions": {"mxnet": "1.8.0"}}, "error", "rank 1 on n1 has mxnet 1.8.0, rank 0 1.9.1"),
        ({"threads": 2}, "warning", "n1: 3 threads of 2 rank(s) on 2 core(s)"),
        ({"clock": 103.5, "host": "n2"}, "warning", "the clock of n1 is 3.5 s behind that of n2"),
        ({"shm_free": 2**20, "host": "n2"}, "warning", "n2: less than 64 MiB free in /dev/shm"),
        ({"refusal": "GPU 1 is a Hopper"}, "warning", "rank 1: GPU 1 is a Hopper"),
    ],
)
def test_each_problem_is_reported_with_rank_or_host_and_a_cure(second: dict[str, object], level: str, what: str) -> None:
    found = problems([SOUND, replace(TWO[1], **second)])  # type: ignore[arg-type]
    assert [(one.level, one.what) for one in found] == [(level, what)] and found[0].cure


def test_a_gpu_that_was_asked_for_and_cannot_be_used_is_an_error() -> None:
    refused = [replace(one, refusal="MXNet sees none") for one in TWO]
    assert [(one.level, one.what) for one in problems(refused, "gpu")] == [("error", "rank 0, 1: MXNet sees none")]


@pytest.mark.parametrize(("free", "level"), [(None, "error"), (2**20, "error"), (2**30, "warning"), (2**34, "ok")])
def test_room_for_checkpoints_is_judged(free: int | None, level: str) -> None:
    assert of_disk("runs", free).level == level


def test_a_wrong_sum_is_an_error() -> None:
    assert (
        of_allreduce(False, 1.0).level == "error" and of_allreduce(True, 1.0).level == of_allreduce(True, None).level == "ok"
    )


def test_the_map_has_a_line_for_each_rank() -> None:
    assert place_map(GPUS).splitlines()[1:] == [
        "0     n1    gpu(0) A100 8.0  0-1    1        eth0",
        "1     n1    gpu(1) A100 8.0  0-1    1        eth0",
    ]
