"""Each outcome has its exit code, its message and its ``result.json``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.launching import DEADLINE
from vggdist import exit_handling
from vggdist.collectives import world
from vggdist.config.errors import BeforeStart, RequestError, RunError, Stopped, agreed
from vggdist.exit_handling import ExitHandler
from vggdist.launcher.topology import Topology
from vggdist.reporting.result import OUTCOME, Outcome, ResultFile, read_json, read_outcome
from vggdist.watchdog.heartbeat import RankFailure


class Left(BaseException):
    """Raised instead of the end of the process."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture(autouse=True)
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``os._exit`` raise an exception, in a process that is the only rank."""

    def leave(exit_code: int) -> NoReturn:
        raise Left(exit_code)

    monkeypatch.setattr(os, "_exit", leave)
    place(monkeypatch, rank=0, size=1)


def place(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    topology = Topology(rank, size, rank, size)
    monkeypatch.setattr(exit_handling, "from_environment", lambda environment: topology)


def failing(error: BaseException) -> Callable[[], dict[str, Any]]:
    def command() -> dict[str, Any]:
        raise error

    return command


def handler_of(directory: Path) -> ExitHandler:
    """A handler of a command that has opened a run."""
    handler = ExitHandler()
    handler.result = ResultFile(directory / "result.json", {"process": 7})
    return handler


def result(directory: Path) -> dict[str, Any] | None:
    return read_json(directory / "result.json")


def recorded(directory: Path) -> tuple[int, str]:
    found = result(directory)
    assert found is not None
    return found["exit_code"], found["error"]


def test_a_finished_command_ends_with_0_and_its_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert handler_of(tmp_path / "run").run(lambda: {"step": 30, "metrics": {"eval/top1(%)": 97.5}}) == 0
    found = result(tmp_path / "run")
    assert found is not None and found.pop("written_at") and found.pop("job") == {"process": 7}
    assert found == {"state": "finished", "exit_code": 0, "error": None, "step": 30, "metrics": {"eval/top1(%)": 97.5}}
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "exit_code"), [(RequestError("unknown key x"), 2), (RunError("the loss is nan"), 1)])
def test_an_error_for_the_person_ends_with_its_code_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: RequestError | RunError, exit_code: int
) -> None:
    assert handler_of(tmp_path).run(failing(error)) == exit_code
    assert recorded(tmp_path) == (exit_code, str(error)) and capsys.readouterr().err == f"vggdist: {error}\n"


def test_an_unexpected_error_ends_with_1_and_its_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left) as left:
        handler_of(tmp_path).run(failing(ZeroDivisionError("a bug")))
    message = capsys.readouterr().err
    assert left.value.exit_code == 1 and "rank 0: ZeroDivisionError: a bug" in message
    assert recorded(tmp_path)[0] == 1 and "ZeroDivisionError: a bug" in recorded(tmp_path)[1]


def test_an_unexpected_error_within_a_program_is_recorded_and_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        handler_of(tmp_path).call(lambda: {"step": 1 // 0})
    assert recorded(tmp_path) == (1, "rank 0: ZeroDivisionError: integer division or modulo by zero")


def test_an_interrupt_ends_with_1_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Left) as left:
        handler_of(tmp_path).run(failing(KeyboardInterrupt()))
    assert left.value.exit_code == 1 and capsys.readouterr().err == "vggdist: rank 0: interrupted\n"


def test_help_leaves_with_0_and_no_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        handler_of(tmp_path).run(failing(SystemExit(0)))
    assert left.value.code == 0 and not list(tmp_path.iterdir())


def test_an_error_of_one_rank_alone_ends_that_rank_at_once_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place(monkeypatch, rank=2, size=4)
    with pytest.raises(Left) as left:
        handler_of(tmp_path).run(failing(RunError("damaged.png does not decode")))
    assert left.value.exit_code == 1 and "vggdist: rank 2: damaged.png" in capsys.readouterr().err
    assert recorded(tmp_path) == (1, "rank 2: damaged.png does not decode")


def test_an_unexpected_error_of_another_rank_is_in_the_result_with_its_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(monkeypatch, rank=3, size=4)
    with pytest.raises(Left):
        handler_of(tmp_path).run(failing(ZeroDivisionError("a bug")))
    assert recorded(tmp_path)[0] == 1 and recorded(tmp_path)[1].startswith("rank 3: ZeroDivisionError: a bug")


class FakeWatchdog:
    """A watchdog that has detected a failure, or none."""

    def __init__(self, failure: RankFailure | None) -> None:
        self.detected, self.reported = failure, ""

    def failure(self, timeout: float) -> RankFailure | None:
        return self.detected

    def report_failure(self, error: str, exit_code: int) -> None:
        self.reported = error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("rank", "writes"), [(0, True), (1, False)])
def test_a_rank_that_lost_contact_leaves_with_what_the_watch_knows_of_the_one_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int, writes: bool
) -> None:
    place(monkeypatch, rank=rank, size=3)
    handler = handler_of(tmp_path)
    handler._watchdog = FakeWatchdog(RankFailure(2, "rank 2 (node7, 4711) is lost", 1))  # type: ignore[assignment]
    with pytest.raises(Left) as left:
        handler.run(failing(RuntimeError("[enforce fail] Connection closed by peer [127.0.0.1]:4242")))
    assert left.value.exit_code == 1
    assert capsys.readouterr().err == ("vggdist: rank 2 (node7, 4711) is lost\n" if writes else "")
    assert (result(tmp_path) is not None) == writes
    assert not writes or recorded(tmp_path) == (1, "rank 2 (node7, 4711) is lost")


def test_lost_contact_without_a_detected_failure_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, rank=1, size=2)
    handler = handler_of(tmp_path)
    watchdog = FakeWatchdog(None)
    handler._watchdog = watchdog  # type: ignore[assignment]
    with pytest.raises(Left):
        handler.run(failing(RuntimeError("Horovod has been shut down")))
    assert "Horovod has been shut down" in recorded(tmp_path)[1] and "Horovod has been shut down" in watchdog.reported


def test_a_stopped_run_ends_with_75(tmp_path: Path) -> None:
    assert handler_of(tmp_path).run(failing(agreed(Stopped("stopped by SIGTERM on rank 0; step 7 is saved")))) == 75
    assert recorded(tmp_path) == (75, "stopped by SIGTERM on rank 0; step 7 is saved")


@pytest.mark.parametrize(("rank", "message"), [(0, "vggdist: batch too large\n"), (1, "")])
def test_an_agreed_error_is_reported_by_rank_0_before_any_rank_exits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int, message: str
) -> None:
    written_at_barrier: list[bool] = []

    class FakeWorld:
        def barrier(self) -> None:
            written_at_barrier.append(result(tmp_path) is not None)

    monkeypatch.setattr(world, "World", FakeWorld)
    place(monkeypatch, rank=rank, size=2)
    assert handler_of(tmp_path).run(failing(agreed(RequestError("batch too large")))) == 2
    assert capsys.readouterr().err == message and written_at_barrier == [rank == 0]


@pytest.mark.parametrize("rank", [1, 3])
def test_only_rank_0_writes_the_result_of_a_finished_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    place(monkeypatch, rank=rank, size=4)
    assert handler_of(tmp_path).run(lambda: {"step": 1}) == 0 and result(tmp_path) is None


def test_a_result_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert handler_of(tmp_path / "file").run(failing(RequestError("unknown key x"))) == 2
    message = capsys.readouterr().err
    assert "unknown key x" in message and "the result cannot be written" in message


def test_what_is_refused_before_the_run_is_opened_is_in_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert ExitHandler().run(failing(RequestError("no such file"))) == 2
    assert not list(tmp_path.iterdir()) and capsys.readouterr().err == "vggdist: no such file\n"


@pytest.mark.parametrize(("error", "code"), [(RequestError("no such file"), 2), (None, 0)])
def test_the_outcome_is_written_for_the_supervisor(
    error: RequestError | None, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    ExitHandler().run(failing(error) if error else dict)
    assert read_outcome(tmp_path / "outcome") == Outcome(code, str(error or ""))


def test_an_outcome_is_left_though_the_result_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    (tmp_path / "file").touch()
    handler_of(tmp_path / "file").run(dict)
    assert read_outcome(tmp_path / "outcome") == Outcome(0, "")


def test_a_request_that_all_ranks_refuse_is_reported_by_rank_0_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exit_handling, "_LAUNCHER_TIMEOUT", 1e6)
    place(monkeypatch, rank=0, size=3)
    assert ExitHandler().run(failing(BeforeStart("unknown key x"))) == 2
    assert capsys.readouterr().err == "vggdist: unknown key x\n"


def test_a_rank_that_alone_refuses_a_request_reports_it_once_the_launcher_has_not_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(exit_handling, "_LAUNCHER_TIMEOUT", 0)
    place(monkeypatch, rank=1, size=3)
    with pytest.raises(Left) as left:
        ExitHandler().run(failing(BeforeStart("x.yaml: No such file")))
    assert left.value.exit_code == 2 and capsys.readouterr().err == "vggdist: rank 1: x.yaml: No such file\n"


@pytest.mark.parametrize(
    ("continues", "number", "code"),
    [(True, signal.SIGTERM, 75), (False, signal.SIGTERM, 143), (False, signal.SIGUSR1, 138), (False, signal.SIGINT, 130)],
)
def test_a_stop_before_the_first_step_ends_with_the_documented_code(
    continues: bool,
    number: signal.Signals,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    place(monkeypatch, rank=1, size=2)
    handler = ExitHandler()
    handler.can_continue = lambda: continues
    handler._watchdog = watchdog = FakeWatchdog(None)  # type: ignore[assignment]
    with pytest.raises(Left) as left:
        handler.stop_before_first_step(number)
    outcome = read_outcome(tmp_path / "outcome")
    assert left.value.exit_code == code and outcome is not None and outcome.exit_code == code
    assert f"vggdist: rank 1: stopped by {number.name} before the first step" in capsys.readouterr().err
    assert "start the same command again" in outcome.error and "before the first step" in watchdog.reported


def test_a_stop_waits_until_it_is_known_whether_there_is_a_checkpoint() -> None:
    handler = ExitHandler()
    threading.Timer(0.2, lambda: setattr(handler, "can_continue", lambda: True)).start()
    with pytest.raises(Left) as left:
        handler.stop_before_first_step(signal.SIGTERM)
    assert left.value.exit_code == 75


def test_a_rank_that_the_launcher_ends_after_a_failure_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OUTCOME, str(tmp_path / "outcome"))
    place(monkeypatch, rank=1, size=2)
    another_failed = ExitHandler()
    another_failed._watchdog = FakeWatchdog(RankFailure(0, "rank 0: a bug", 1))  # type: ignore[assignment]
    with pytest.raises(Left) as left:
        another_failed.stop_before_first_step(signal.SIGTERM)
    assert left.value.exit_code == 1

    refused, ended = ExitHandler(), []

    def wait(seconds: float) -> None:
        with pytest.raises(Left) as left:
            refused.stop_before_first_step(signal.SIGTERM)
        ended.append(left.value.exit_code)
        raise Left(ended[0])

    monkeypatch.setattr(exit_handling.time, "sleep", wait)
    with pytest.raises(Left):
        refused.run(failing(BeforeStart("unknown key x")))
    assert ended == [2] and capsys.readouterr().err == "" and not (tmp_path / "outcome").exists()


@pytest.mark.parametrize("words", [["bench", "scaling"], ["bench", "input"], ["doctor"], ["train"]], ids=" ".join)
def test_an_invalid_variable_of_the_launcher_ends_each_command_with_a_message(words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "HOROVOD_RANK": "x", "HOROVOD_SIZE": "2"}
    command = [sys.executable, "-m", f"vggdist.{words[0]}", *words[1:]]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE)
    assert done.returncode == 2 and "HOROVOD_RANK is 'x'; expected a number" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
