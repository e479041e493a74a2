"""Each outcome has its exit code, its message and its ``result.json``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from vggdist.config.errors import RequestError, RunError, agreed
from vggdist.ending import end
from vggdist.reporting.result import read_result
from vggdist.world import process
from vggdist.world.topology import Topology


class Left(BaseException):
    """Stands for the end of the process."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture(autouse=True)
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os._exit`` raises, so that a test outlives it; and this process is alone."""

    def leave(exit_code: int) -> NoReturn:
        raise Left(exit_code)

    monkeypatch.setattr(os, "_exit", leave)
    place(monkeypatch, rank=0, size=1)


def place(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    here = Topology(rank, size, rank, size)
    monkeypatch.setattr("vggdist.ending.from_environment", lambda environment: here)


def failing(error: BaseException) -> Callable[[], dict[str, Any]]:
    def command() -> dict[str, Any]:
        raise error

    return command


def told(directory: Path) -> tuple[int, str]:
    found = read_result(directory)
    assert found is not None
    return found["exit_code"], found["error"]


def test_a_finished_command_ends_with_0_and_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert end(lambda: {"step": 30, "metrics": {"eval/top1(%)": 97.5}}, tmp_path / "run") == 0
    found = read_result(tmp_path / "run")
    assert found is not None and found.pop("written_at")
    assert found == {"exit_code": 0, "error": None, "step": 30, "metrics": {"eval/top1(%)": 97.5}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "exit_code"), [(RequestError("unknown key x"), 2), (RunError("the loss is nan"), 1)])
def test_an_error_for_the_person_ends_with_its_code_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: RequestError | RunError, exit_code: int
) -> None:
    assert end(failing(error), tmp_path) == exit_code
    assert told(tmp_path) == (exit_code, str(error)) and capsys.readouterr().err == f"vggdist: {error}\n"


def test_an_unexpected_error_ends_with_1_and_its_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left) as left:
        end(failing(ZeroDivisionError("a bug")), tmp_path)
    message = capsys.readouterr().err
    assert left.value.exit_code == 1 and "rank 0 failed" in message and "ZeroDivisionError: a bug" in message
    assert told(tmp_path)[0] == 1 and "ZeroDivisionError: a bug" in told(tmp_path)[1]


def test_an_interrupt_ends_with_1_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left) as left:
        end(failing(KeyboardInterrupt()), tmp_path)
    assert left.value.exit_code == 1 and capsys.readouterr().err == "rank 0: interrupted\n"


def test_help_leaves_with_0_and_no_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        end(failing(SystemExit(0)), tmp_path)
    assert left.value.code == 0 and not list(tmp_path.iterdir())


def test_an_error_of_one_rank_alone_ends_that_rank_at_once_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place(monkeypatch, rank=2, size=4)
    with pytest.raises(Left) as left:
        end(failing(RunError("damaged.png does not decode")), tmp_path)
    assert left.value.exit_code == 1 and "vggdist: rank 2: damaged.png" in capsys.readouterr().err
    assert told(tmp_path) == (1, "rank 2: damaged.png does not decode")


def test_an_unexpected_error_of_another_rank_is_in_the_result_with_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, rank=3, size=4)
    with pytest.raises(Left):
        end(failing(ZeroDivisionError("a bug")), tmp_path)
    assert told(tmp_path)[0] == 1 and "rank 3 failed" in told(tmp_path)[1] and "a bug" in told(tmp_path)[1]


def test_a_command_can_name_its_result(tmp_path: Path) -> None:
    assert end(lambda: {"step": 1}, tmp_path, "evaluation.json") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


@pytest.mark.parametrize(("rank", "message"), [(0, "vggdist: batch too large\n"), (1, "")])
def test_an_agreed_error_is_told_by_rank_0_before_any_rank_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int, message: str
) -> None:
    written_at_barrier: list[bool] = []

    class FakeWorld:
        def barrier(self) -> None:
            written_at_barrier.append(read_result(tmp_path) is not None)

    monkeypatch.setattr(process, "World", FakeWorld)
    place(monkeypatch, rank=rank, size=2)
    assert end(failing(agreed(RequestError("batch too large"))), tmp_path) == 2
    assert capsys.readouterr().err == message and written_at_barrier == [rank == 0]


@pytest.mark.parametrize("rank", [1, 3])
def test_only_rank_0_writes_the_result_of_a_finished_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    place(monkeypatch, rank=rank, size=4)
    assert end(lambda: {"step": 1}, tmp_path) == 0 and read_result(tmp_path) is None


def test_a_result_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert end(failing(RequestError("unknown key x")), tmp_path / "file") == 2
    message = capsys.readouterr().err
    assert "unknown key x" in message and "cannot write" in message
