"""``result.json`` tells how a run ended, and a refused request does not make it forget."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from vggdist.reporting.result import read_result, write_result

FINISHED: dict[str, Any] = {"exit_code": 0, "error": None, "metrics": {"eval/top1(%)": 97.5}}
REFUSED: dict[str, Any] = {"exit_code": 2, "error": "unknown key"}


def contents(directory: Path) -> dict[str, Any]:
    """The result without its date."""
    found = read_result(directory)
    assert found is not None
    return {key: value for key, value in found.items() if key != "written_at"}


def test_a_result_comes_back_with_the_time_it_was_written(tmp_path: Path) -> None:
    write_result(tmp_path / "runs" / "new", FINISHED)
    found = json.loads((tmp_path / "runs" / "new" / "result.json").read_text())
    assert contents(tmp_path / "runs" / "new") == FINISHED
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["written_at"])


def test_a_refused_request_keeps_the_earlier_result(tmp_path: Path) -> None:
    write_result(tmp_path, FINISHED)
    earlier = read_result(tmp_path)
    write_result(tmp_path, REFUSED)
    assert contents(tmp_path) == {**REFUSED, "previous": earlier}


def test_a_second_refused_request_does_not_nest_the_first(tmp_path: Path) -> None:
    write_result(tmp_path, FINISHED)
    earlier = read_result(tmp_path)
    for number in range(3):
        write_result(tmp_path, {**REFUSED, "error": f"request {number}"})
    assert contents(tmp_path) == {"exit_code": 2, "error": "request 2", "previous": earlier}


def test_refused_requests_alone_have_no_previous(tmp_path: Path) -> None:
    for _ in range(2):
        write_result(tmp_path, REFUSED)
    assert contents(tmp_path) == REFUSED


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_run_that_took_place_replaces_the_result(tmp_path: Path, exit_code: int) -> None:
    for result in (FINISHED, REFUSED, {"exit_code": exit_code}):
        write_result(tmp_path, result)
    assert contents(tmp_path) == {"exit_code": exit_code}


@pytest.mark.parametrize("text", ["", '{"exit_code": 0', "[0]", "\x00\x01"])
def test_a_result_that_cannot_be_read_is_none_and_does_not_stop_the_next(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    assert read_result(tmp_path) is None
    write_result(tmp_path, REFUSED)
    assert contents(tmp_path) == REFUSED


def test_without_a_run_there_is_no_result(tmp_path: Path) -> None:
    assert read_result(tmp_path / "none") is None


def test_a_failing_write_leaves_the_former_result_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Path, target: Path) -> None:
        raise OSError("No space left on device")

    write_result(tmp_path, FINISHED)
    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(Path, "replace", full_disk)
        write_result(tmp_path, {"exit_code": 1})
    assert contents(tmp_path) == FINISHED


def test_only_the_result_is_left_in_the_folder(tmp_path: Path) -> None:
    write_result(tmp_path, FINISHED)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_metric_that_is_not_finite_is_null(tmp_path: Path) -> None:
    metrics = {"eval/auc": float("nan"), "eval/loss": float("inf"), "eval/top1(%)": 50.0}
    write_result(tmp_path, {"exit_code": 0, "metrics": metrics})
    assert contents(tmp_path)["metrics"] == {"eval/auc": None, "eval/loss": None, "eval/top1(%)": 50.0}


def test_a_refusal_under_another_name_leaves_the_result_alone(tmp_path: Path) -> None:
    write_result(tmp_path, FINISHED)
    write_result(tmp_path, REFUSED, "evaluation.json")
    assert contents(tmp_path) == FINISHED and "previous" not in (tmp_path / "evaluation.json").read_text()
