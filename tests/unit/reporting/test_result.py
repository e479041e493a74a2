"""``result.json`` has the end of a run and its job, and is written atomically; an outcome reaches the parent process."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from vggdist.reporting.result import OUTCOME, Outcome, ResultFile, read_json, read_outcome, write_json, write_outcome

JOB = {"host": "node1", "process": 7}


def contents(path: Path) -> dict[str, Any]:
    """The result without its date."""
    found = read_json(path)
    assert found is not None
    return {key: value for key, value in found.items() if key != "written_at"}


def test_a_job_that_has_begun_is_running(tmp_path: Path) -> None:
    ResultFile(tmp_path / "result.json", JOB).begin()
    assert contents(tmp_path / "result.json") == {"state": "running", "exit_code": None, "error": None, "job": JOB}


@pytest.mark.parametrize(
    ("code", "state"), [(0, "finished"), (1, "failed"), (2, "refused"), (75, "stopped"), (143, "stopped")]
)
def test_a_job_that_has_ended_says_how(code: int, state: str, tmp_path: Path) -> None:
    file = ResultFile(tmp_path / "result.json", JOB)
    file.begin()
    file.end(code, "why", {"step": 3})
    assert contents(tmp_path / "result.json") == {
        "state": state,
        "exit_code": code,
        "error": "why",
        "step": 3,
        "job": JOB,
    }


def test_the_result_of_an_earlier_job_is_not_taken_for_that_of_one_that_was_killed(tmp_path: Path) -> None:
    earlier = ResultFile(tmp_path / "result.json", JOB)
    earlier.end(0, None, {"step": 3})
    ended = read_json(tmp_path / "result.json")
    for process in (8, 9):  # the second starts after the first was killed
        ResultFile(tmp_path / "result.json", {"process": process}).begin()
        found = contents(tmp_path / "result.json")
        assert (found["state"], found["exit_code"], found["job"]["process"]) == ("running", None, process)
        assert found["previous"] == ended


def test_a_result_has_the_time_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {})
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", json.loads((tmp_path / "new" / "a.json").read_text())["written_at"]
    )


@pytest.mark.parametrize("text", ["", '{"exit_code": 0', "[0]", "\x00\x01", "[" * 100_000])
def test_a_result_that_cannot_be_read_is_none_and_does_not_stop_the_next(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    assert read_json(tmp_path / "result.json") is None
    ResultFile(tmp_path / "result.json", JOB).begin()
    assert contents(tmp_path / "result.json")["state"] == "running"


def test_a_result_that_is_no_file_is_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "result.json")
    assert read_json(tmp_path / "result.json") is None and read_json(tmp_path / "absent") is None


def test_a_failing_write_leaves_the_former_result_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, target: Path) -> None:
        raise OSError("No space left on device")

    write_json(tmp_path / "a.json", {"a": 1})
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(Path, "replace", full_disk)
        write_json(tmp_path / "a.json", {"a": 2})
    assert contents(tmp_path / "a.json") == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_metric_that_is_not_finite_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"metrics": {"auc": float("nan"), "loss": [float("inf")], "top1": 50.0}})
    assert contents(tmp_path / "a.json")["metrics"] == {"auc": None, "loss": [None], "top1": 50.0}


def test_an_outcome_is_left_where_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    assert read_outcome(tmp_path / "outcome") is None
    write_outcome(2, "wrong\nin two lines")
    assert read_outcome(tmp_path / "outcome") == Outcome(2, "wrong\nin two lines")
    write_outcome(143, "ended by the launcher, since another rank has left")
    assert read_outcome(tmp_path / "outcome") == Outcome(2, "wrong\nin two lines")
    monkeypatch.delenv(OUTCOME)
    write_outcome(0, None)
    assert read_outcome(tmp_path / "outcome") == Outcome(2, "wrong\nin two lines")


def test_an_outcome_that_is_none_is_none(tmp_path: Path) -> None:
    (tmp_path / "outcome").write_text("no number\n")
    assert read_outcome(tmp_path / "outcome") is None
