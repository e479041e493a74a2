"""Each outcome has its exit code, its message and its ``result.json``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from vggdist.config.errors import RequestError, RunError, Stopped, agreed
from vggdist.ending import Ending
from vggdist.reporting.result import read_result
from vggdist.world import process
from vggdist.world.topology import Topology
from vggdist.world.watch import Verdict


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
    assert Ending(tmp_path / "run").of(lambda: {"step": 30, "metrics": {"eval/top1(%)": 97.5}}) == 0
    found = read_result(tmp_path / "run")
    assert found is not None and found.pop("written_at")
    assert found == {"exit_code": 0, "error": None, "step": 30, "metrics": {"eval/top1(%)": 97.5}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "exit_code"), [(RequestError("unknown key x"), 2), (RunError("the loss is nan"), 1)])
def test_an_error_for_the_person_ends_with_its_code_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: RequestError | RunError, exit_code: int
) -> None:
    assert Ending(tmp_path).of(failing(error)) == exit_code
    assert told(tmp_path) == (exit_code, str(error)) and capsys.readouterr().err == f"vggdist: {error}\n"


def test_an_unexpected_error_ends_with_1_and_its_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left) as left:
        Ending(tmp_path).of(failing(ZeroDivisionError("a bug")))
    message = capsys.readouterr().err
    assert left.value.exit_code == 1 and "rank 0: ZeroDivisionError: a bug" in message
    assert told(tmp_path)[0] == 1 and "ZeroDivisionError: a bug" in told(tmp_path)[1]


def test_an_interrupt_ends_with_1_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left) as left:
        Ending(tmp_path).of(failing(KeyboardInterrupt()))
    assert left.value.exit_code == 1 and capsys.readouterr().err == "vggdist: rank 0: interrupted\n"


def test_help_leaves_with_0_and_no_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        Ending(tmp_path).of(failing(SystemExit(0)))
    assert left.value.code == 0 and not list(tmp_path.iterdir())


def test_an_error_of_one_rank_alone_ends_that_rank_at_once_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place(monkeypatch, rank=2, size=4)
    with pytest.raises(Left) as left:
        Ending(tmp_path).of(failing(RunError("damaged.png does not decode")))
    assert left.value.exit_code == 1 and "vggdist: rank 2: damaged.png" in capsys.readouterr().err
    assert told(tmp_path) == (1, "rank 2: damaged.png does not decode")


def test_an_unexpected_error_of_another_rank_is_in_the_result_with_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, rank=3, size=4)
    with pytest.raises(Left):
        Ending(tmp_path).of(failing(ZeroDivisionError("a bug")))
    assert told(tmp_path)[0] == 1 and told(tmp_path)[1].startswith("rank 3: ZeroDivisionError: a bug")


class KnowingWatch:
    """A watch that has learnt who failed."""

    def __init__(self, verdict: Verdict | None) -> None:
        self.known, self.told = verdict, ""

    def verdict(self, patience: float) -> Verdict | None:
        return self.known

    def tell(self, error: str, exit_code: int) -> None:
        self.told = error


@pytest.mark.parametrize(("rank", "writes"), [(0, True), (1, False)])
def test_a_rank_that_lost_contact_leaves_with_what_the_watch_knows_of_the_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int, writes: bool
) -> None:
    place(monkeypatch, rank=rank, size=3)
    ending = Ending(tmp_path)
    ending._watch = KnowingWatch(Verdict(2, "rank 2 (node7, 4711) is gone", 1))  # type: ignore[assignment]
    with pytest.raises(Left) as left:
        ending.of(failing(RuntimeError("[enforce fail] Connection closed by peer [127.0.0.1]:4242")))
    assert left.value.exit_code == 1
    assert capsys.readouterr().err == ("vggdist: rank 2 (node7, 4711) is gone\n" if writes else "")
    assert (read_result(tmp_path) is not None) == writes
    assert not writes or told(tmp_path) == (1, "rank 2 (node7, 4711) is gone")


def test_lost_contact_that_the_watch_cannot_explain_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, rank=1, size=2)
    ending = Ending(tmp_path)
    ending._watch = KnowingWatch(None)  # type: ignore[assignment]
    with pytest.raises(Left):
        ending.of(failing(RuntimeError("Horovod has been shut down")))
    assert "Horovod has been shut down" in told(tmp_path)[1] and "Horovod has been shut down" in ending._watch.told


def test_a_stopped_run_ends_with_75(tmp_path: Path) -> None:
    assert Ending(tmp_path).of(failing(agreed(Stopped("stopped by SIGTERM on rank 0; step 7 is saved")))) == 75
    assert told(tmp_path) == (75, "stopped by SIGTERM on rank 0; step 7 is saved")


def test_a_command_can_name_its_result(tmp_path: Path) -> None:
    assert Ending(tmp_path, "evaluation.json").of(lambda: {"step": 1}) == 0
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
    assert Ending(tmp_path).of(failing(agreed(RequestError("batch too large")))) == 2
    assert capsys.readouterr().err == message and written_at_barrier == [rank == 0]


@pytest.mark.parametrize("rank", [1, 3])
def test_only_rank_0_writes_the_result_of_a_finished_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    place(monkeypatch, rank=rank, size=4)
    assert Ending(tmp_path).of(lambda: {"step": 1}) == 0 and read_result(tmp_path) is None


def test_a_result_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Ending(tmp_path / "file").of(failing(RequestError("unknown key x"))) == 2
    message = capsys.readouterr().err
    assert "unknown key x" in message and "cannot write" in message
