"""The whole self test on several ranks, on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

from tests.launching import HAS_BFLOAT16, run

LOCAL = [
    "update as on the CPU, small",
    "update as on the CPU, full",
    "dropout follows the seed, masks that differ",
    "training twice, arrays that differ",
    "continued from a snapshot, arrays that differ",
    "step of one rank alone, float32",
    "memory of a rank",
    *(["update in bfloat16 beside float32, small", "step of one rank alone, bfloat16"] if HAS_BFLOAT16 else []),
]
OF_RANKS = [
    "sum over the ranks, numbers that are wrong",
    "training twice in buckets, arrays that differ",
    "2 ranks as one, small",
    "sum over the ranks",
    "step of all ranks, float32",
]


def test_every_check_passes_on_the_cpu_and_both_files_are_there(tmp_path: Path) -> None:
    """One rank: tests/launch/test_doctor.py."""
    finished = run("horovodrun --gloo", 2, ["-m", "tests.ranks.selftest_rank", "out"], tmp_path)
    assert finished.code == 0, finished.output
    require_passed(tmp_path / "out", size=2)


def require_passed(folder: Path, size: int) -> None:
    """Check that each claim is there, on each rank, and none failed."""
    data = json.loads((folder / "selftest.json").read_text())
    assert data["passed"] and (data["ranks"], len(data["devices"])) == (size, size)
    assert {one["claim"] for one in data["checks"]} == {*LOCAL, *(OF_RANKS if size > 1 else [])}
    assert all(len(one["values"]) == size for one in data["checks"])
    text = (folder / "selftest.txt").read_text()
    assert text.endswith(f"{len(data['checks'])} checks, none failed\n") and "FAILED" not in text
