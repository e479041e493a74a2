"""The supervisor's decisions, and its loop around a small script instead of a training."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launching import DEADLINE
from vggdist import supervise
from vggdist.config.errors import RequestError
from vggdist.processes import job
from vggdist.reporting.result import Outcome
from vggdist.supervise import Decision, Policy, decide, fewer_ranks, made_progress

POLICY = Policy(max_restarts=3, backoff=5)


@pytest.mark.parametrize(
    ("code", "progressed", "stalled", "stopping", "decision"),
    [
        (0, False, 3, False, Decision(0, 0, 3)),
        (2, True, 0, False, Decision(2, 0, 0)),
        (75, True, 0, False, Decision(75, 0, 0)),
        (75, True, 0, True, Decision(75, 0, 0)),
        (1, False, 0, False, Decision(None, 5, 1)),
        (1, False, 1, False, Decision(None, 10, 2)),
        (1, False, 2, False, Decision(None, 20, 3)),
        (143, True, 0, False, Decision(143, 0, 0)),
        (138, True, 0, True, Decision(138, 0, 0)),
        (1, False, 3, False, Decision(1, 0, 3)),
        (1, True, 3, False, Decision(None, 5, 1)),
        (1, True, 0, True, Decision(1, 0, 0)),
    ],
)
def test_what_follows_an_attempt(code: int, progressed: bool, stalled: int, stopping: bool, decision: Decision) -> None:
    assert decide(Outcome(code, ""), progressed, stalled, POLICY, stopping) == decision


def test_waits_double_without_progress_up_to_five_minutes() -> None:
    waits, stalled = [], 0
    for _ in range(8):
        decision = decide(Outcome(1, ""), False, stalled, Policy(10**6, 5), False)
        waits.append(decision.wait)
        stalled = decision.stalled
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300]
    assert decide(Outcome(1, ""), False, 10**5, Policy(10**6, 5), False).wait == 300
    assert decide(Outcome(1, ""), True, stalled, Policy(10**6, 5), False) == Decision(None, 5, 1)


def test_no_restarts_are_none_even_after_progress() -> None:
    assert decide(Outcome(1, ""), True, 0, Policy(0, 5), False) == Decision(1, 0, 0)


@pytest.mark.parametrize(
    ("before", "after", "progressed"),
    [
        ([], [], False),
        ([], [10], True),
        ([10], [10], False),
        ([10, 20], [20, 30], True),
        ([20], [30, 40], True),  # pruned
        ([10, 20], [10], False),  # the newest was damaged and removed; none is newer than the one it started from
        ([900], [100], True),  # started over, after an earlier run
        ([900], [], False),
    ],
)
def test_progress_is_a_newer_checkpoint(before: list[int], after: list[int], progressed: bool) -> None:
    assert made_progress(before, after) is progressed


@pytest.mark.parametrize(
    ("size", "batch", "accumulation", "begun", "fewer"),
    [
        (4, 96, 1, False, 3),
        (4, 32, 1, False, 2),
        (4, 32, 1, True, 3),
        (8, 256, 1, False, 4),
        (4, 96, 32, False, 3),
        (4, 64, 32, False, 2),
        (4, 64, 32, True, 3),
        (2, 7, 1, False, 1),
        (2, 7, 2, False, None),
        (2, 7, 2, True, 1),
        (1, 32, 1, False, None),
        (1, 32, 1, True, None),
    ],
)
def test_fewer_ranks_share_the_global_batch_evenly_only_at_the_beginning(
    size: int, batch: int, accumulation: int, begun: bool, fewer: int | None
) -> None:
    assert fewer_ranks(size, batch, accumulation, begun) == fewer


def test_the_supervisor_needs_neither_mxnet_nor_horovod() -> None:
    check = "import sys, vggdist.supervise; assert not {'mxnet', 'horovod'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=DEADLINE)


# Replaces `python -m vggdist.train` in the folder of a test: its n-th start runs the n-th text of attempts.json.
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path

run = Path("runs/quickstart")
run.mkdir(parents=True, exist_ok=True)

def opens():
    (run / "config.yaml").write_text(str(time.time_ns()))

def saves(step, batch=32):
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    (folder / "arrays.npz").touch()
    (folder / "state.json").write_text(json.dumps({"step": step, "identity": {"global batch size": batch}}))
    sizes = {name: {"sha256": "", "bytes": (folder / name).stat().st_size} for name in ("arrays.npz", "state.json")}
    (folder / "manifest.json").write_text(json.dumps(sizes))

def exits(code, error=None):
    Path(os.environ["VGGDIST_OUTCOME"]).write_text(f"{code}\\n{error or ''}\\n")
    sys.exit(code)

def writes_result(code, error=None, mark=os.environ.get("VGGDIST_SUPERVISED")):
    (run / "result.json").write_text(json.dumps({"exit_code": code, "error": error, "job": {"mark": mark}}))

def ready(seconds=600):
    Path("ready").touch()
    time.sleep(seconds)

with open("starts.jsonl", "a+") as starts:
    starts.seek(0)
    number = len(starts.readlines())
    starts.write(json.dumps(sys.argv[1:]) + chr(10))
exec(json.loads(Path("attempts.json").read_text())[number])
"""

# A launcher that hides the exit code, as horovodrun does. It records its arguments.
LAUNCHER = f"""#!{sys.executable}
import json, subprocess, sys
with open("launched.jsonl", "a") as launched:
    launched.write(json.dumps(sys.argv[1 : sys.argv.index("-m") - 1]) + chr(10))
sys.exit(1 if subprocess.call(sys.argv[sys.argv.index("-m") - 1 :]) else 0)
"""

# A launcher whose ranks are on other hosts.
REMOTE_LAUNCHER = f"""#!{sys.executable}
import pathlib, signal, sys, time
def record(number, frame):
    pathlib.Path("signal").write_text(signal.Signals(number).name)
    sys.exit(1)
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, record)
pathlib.Path("ready").touch()
time.sleep(float(pathlib.Path("seconds").read_text()))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose ``vggdist.train`` is the script; signal handlers are those of a shell, and restored afterwards."""
    (tmp_path / "vggdist").mkdir()
    (tmp_path / "vggdist" / "__init__.py").touch()
    (tmp_path / "vggdist" / "train.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    for module in (supervise, job):
        monkeypatch.setattr(module, "GRACE_S", 0.3)
    monkeypatch.setattr(supervise, "_POLL_S", 0.02)
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # pytest may run under nohup
    yield tmp_path
    for number, handler in zip(numbers, handlers):
        signal.signal(number, handler)


def act(*attempts: str) -> None:
    Path("attempts.json").write_text(json.dumps(attempts))


def starts(file: str = "starts.jsonl") -> list[list[str]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def executable(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def send(*numbers: int, when: str = "ready") -> None:
    """Send this process, which is the supervisor, signals once a file exists."""

    def wait_and_send() -> None:
        until = time.monotonic() + DEADLINE
        while not Path(when).exists() and time.monotonic() < until:
            time.sleep(0.02)
        for number in numbers:
            time.sleep(0.3)
            os.kill(os.getpid(), number)

    threading.Thread(target=wait_and_send, daemon=True).start()


def test_a_launcher_whose_quotes_are_not_closed_is_refused() -> None:
    with pytest.raises(RequestError, match=r"the launcher \"foo 'bar\" cannot be split into words: No closing quotation"):
        job.launcher_command("foo 'bar")


@pytest.mark.usefixtures("folder")
class TestTheLoop:
    def test_a_job_that_dies_continues_until_it_is_finished(self, capfd: pytest.CaptureFixture[str]) -> None:
        act(
            "saves(10); exits(1, 'rank 1 is lost')",
            "saves(20); exits(1, 'rank 0 failed:\\nTraceback\\n  line 1\\nValueError: odd')",
            "saves(30); os.kill(os.getpid(), 9)",
            "print('the output'); exits(0)",
        )
        assert supervise.main(["--backoff", "0.01", "--", "--train.steps", "40"]) == 0
        output, log = capfd.readouterr()
        assert starts() == [["--train.steps", "40"]] * 4
        assert output == "the output\n"
        assert "supervise: attempt 2 after 0.01 s: rank 1 is lost; continuing from step 10\n" in log
        assert "rank 0 failed: ValueError: odd; continuing from step 20\n" in log
        assert "the job was killed by SIGKILL and reported no outcome; continuing from step 30\n" in log
        assert log.endswith("exit code 0\n")

    def test_a_folder_that_cannot_be_read_is_reported_and_the_job_decides(self, capfd: pytest.CaptureFixture[str]) -> None:
        act("exits(1, 'lost')", "exits(2, 'the folder is wrong')")
        assert supervise.main(["--backoff", "0", "--", "--run.directory", "n" * 300]) == 2
        log = capfd.readouterr().err
        assert "checkpoints cannot be read: File name too long" in log and "the folder is wrong; exit code 2" in log

    def test_it_gives_up_after_restarts_without_progress(self, capfd: pytest.CaptureFixture[str]) -> None:
        act("saves(10); exits(1, 'first')", "exits(1, 'second')", "exits(1, 'third')")
        assert supervise.main(["--backoff", "0", "--max-restarts", "2", "--"]) == 1
        assert len(starts()) == 3
        assert "gave up after 2 consecutive restarts without progress; third; exit code 1" in capfd.readouterr().err

    def test_progress_earns_more_restarts(self) -> None:
        act(*[f"saves({step}); sys.exit(1)" for step in range(1, 5)], "exits(0)")
        assert supervise.main(["--backoff", "0", "--max-restarts", "1", "--"]) == 0
        assert len(starts()) == 5

    @pytest.mark.parametrize("code", [0, 2, 75])
    def test_the_true_outcome_is_read_where_the_launcher_hides_it(self, code: int, folder: Path) -> None:
        act(f"exits({code}, 'the reason')")
        launcher = executable(folder / "launcher", LAUNCHER)
        assert supervise.main(["-np", "2", "-H", "a:1,b:1", "--launcher", f"{launcher} --gloo", "--"]) == code
        assert starts("launched.jsonl") == [["--gloo", "-np", "2", "-H", "a:1,b:1"]]

    @pytest.mark.parametrize("code", [0, 2, 75])
    def test_a_code_counts_where_there_is_no_result(self, code: int) -> None:
        act(f"sys.exit({code})")
        assert supervise.main(["--"]) == code

    def test_the_result_of_another_job_is_not_taken_for_this_attempts(self) -> None:
        """The result of an earlier job, or of a second job that is started by hand at the same time."""
        act("writes_result(2, 'the run is being trained', mark=None); os.kill(os.getpid(), 9)", "exits(75)")
        Path("runs/quickstart").mkdir(parents=True)
        Path("runs/quickstart/result.json").write_text('{"exit_code": 0, "job": {"mark": "earlier"}}')
        assert supervise.main(["--backoff", "0", "--"]) == 75
        assert len(starts()) == 2

    @pytest.mark.parametrize("code", [0, 2, 75])
    def test_a_result_counts_where_the_outcome_is_left_on_another_host(self, code: int, folder: Path) -> None:
        act(f"writes_result({code}, 'the reason'); sys.exit({code})")
        launcher = executable(folder / "launcher", LAUNCHER)
        assert supervise.main(["-np", "2", "--launcher", launcher, "--max-restarts", "0", "--"]) == code

    def test_a_run_that_starts_over_is_continued_after_it_has_begun(self, capfd: pytest.CaptureFixture[str]) -> None:
        """Until an attempt has opened the folder, its checkpoints are those of an earlier run."""
        act("sys.exit(1)", "opens(); sys.exit(1)", "sys.exit(1)", "exits(0)")
        checkpoint = Path("runs/quickstart/checkpoints/step-00000900")
        checkpoint.mkdir(parents=True)
        flags = ["--run.resume", "never", "--run.overwrite", "true"]
        assert supervise.main(["--backoff", "0", "--", *flags]) == 0
        assert starts() == [flags, flags, [*flags, "--run.resume", "auto"], [*flags, "--run.resume", "auto"]]
        log = capfd.readouterr().err
        assert "starting over\n" in log and "adding --run.resume auto\n" in log

    def test_fewer_ranks_each_time_where_asked(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        act("saves(10, batch=64); sys.exit(1)", "sys.exit(1)", "sys.exit(1)", "sys.exit(1)", "exits(0)")
        launcher = executable(folder / "launcher", LAUNCHER)
        options = ["-np", "4", "--launcher", launcher, "--backoff", "0", "--max-restarts", "9", "--shrink"]
        assert supervise.main([*options, "--", "--train.accumulation", "2"]) == 0
        assert [words[-1] for words in starts("launched.jsonl")] == ["4", "3", "2", "1", "1"]
        shrunk = ["--train.accumulation", "2", "--train.global_batch_size", "64"]
        assert starts() == [shrunk[:2]] + [shrunk] * 4
        log = capfd.readouterr().err
        assert "continuing from step 10 on 3 rank(s), adding --train.global_batch_size 64\n" in log
        assert "on 1 rank(s) again, adding" in log

    @pytest.mark.parametrize(
        ("arguments", "batch"),
        [
            ([], "32"),
            (["--train.global_batch_size", "64"], "64"),
            (["--model.name", "vgg11", "--run.name", "quickstart", "--train.batch_size", "20"], "40"),
        ],
    )
    def test_without_a_checkpoint_the_global_batch_is_the_request(
        self, arguments: list[str], batch: str, folder: Path
    ) -> None:
        act("sys.exit(1)", "exits(0)")
        launcher = executable(folder / "launcher", LAUNCHER)
        assert supervise.main(["-np", "2", "--launcher", launcher, "--backoff", "0", "--shrink", "--", *arguments]) == 0
        assert starts() == [arguments, [*arguments, "--train.global_batch_size", batch]]

    def test_remaining_processes_of_the_job_are_killed_and_reported(self, capfd: pytest.CaptureFixture[str]) -> None:
        child = "subprocess.Popen(['sleep', '61'], start_new_session=True).pid"
        act(f"Path('child').write_text(str({child})); exits(0)")
        assert supervise.main(["--"]) == 0
        pid = Path("child").read_text()
        assert f"killed remaining processes of the job: {pid} (sleep 61)" in capfd.readouterr().err
        assert not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE


@pytest.mark.usefixtures("folder")
class TestAStopRequest:
    @pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
    def test_it_goes_to_the_ranks_and_the_job_is_not_started_again(
        self, name: str, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        received = "SIGTERM" if name == "SIGHUP" else name
        act(f"signal.signal(signal.{received}, lambda *_: exits(75, 'stopped')); ready()")
        send(getattr(signal, name))
        launcher = executable(folder / "launcher", LAUNCHER)
        assert supervise.main(["-np", "2", "--launcher", launcher, "--"]) == 75
        assert len(starts()) == 1
        assert f"supervise: {received} forwarded to 1 rank(s)\n" in capfd.readouterr().err

    @pytest.mark.parametrize(("before", "code"), [("saves(10)", 75), ("pass", 143)])
    def test_a_job_that_it_ends_before_a_rank_can_answer_continues_from_what_is_saved(self, before: str, code: int) -> None:
        act(f"{before}; ready()")
        send(signal.SIGTERM)
        assert supervise.main(["--"]) == code

    def test_an_error_that_the_job_reports_meanwhile_is_its_outcome(self) -> None:
        act("saves(10); signal.signal(signal.SIGTERM, lambda *_: exits(1, 'the loss is not finite')); ready()")
        send(signal.SIGTERM)
        assert supervise.main(["--"]) == 1

    def test_a_second_sigint_kills_a_job_that_ignores_the_first(self, capfd: pytest.CaptureFixture[str]) -> None:
        act("[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)]; ready(3600)")
        send(signal.SIGTERM, signal.SIGINT, signal.SIGINT)
        assert supervise.main(["--"]) == 143
        log = capfd.readouterr().err
        assert "SIGTERM forwarded" in log and "SIGINT forwarded" in log and "second SIGINT, killed" in log

    @pytest.mark.parametrize(("act_of", "code"), [("saves(10)", 75), ("pass", 143)])
    def test_between_two_attempts_it_ends_at_once(self, act_of: str, code: int) -> None:
        act(f"{act_of}; Path('ready').touch(); sys.exit(1)")
        send(signal.SIGTERM)
        started, backoff = time.monotonic(), 300
        assert supervise.main(["--backoff", str(backoff), "--"]) == code
        assert time.monotonic() - started < backoff

    @pytest.mark.parametrize(
        ("launcher", "received"), [("mpirun", "SIGUSR1"), ("horovodrun --gloo", "SIGTERM"), ("horovodrun", None)]
    )
    def test_without_a_rank_here_the_launcher_gets_what_is_safe(
        self, launcher: str, received: str | None, folder: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        executable(folder / launcher.split()[0], REMOTE_LAUNCHER)
        Path("seconds").write_text("600" if received else "5")
        send(signal.SIGTERM)
        assert supervise.main(["-np", "2", "--launcher", str(folder / launcher), "--"]) == (143 if received else 0)
        assert (Path("signal").read_text() if received else None) == received
        assert f"no rank is on this host; {launcher.split()[0]} gets {received or 'nothing'}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-np", "0", "--"], "-np is 0; expected at least 1 rank"),
        (["-np", "two", "--"], "invalid int value: 'two'"),
        (["--max-restarts", "-1", "--"], "--max-restarts is -1"),
        (["--backoff", "301", "--"], "--backoff is 301.0"),
        (["--backoff", "nan", "--"], "--backoff is nan"),
        (
            ["--train.steps", "5"],
            "unrecognized arguments: --train.steps 5 (vggdist supervise --help lists the options; train's",
        ),
        (["-np", "2", "--launcher", "nosuchrun --gloo", "--"], "the launcher 'nosuchrun' is neither next to"),
        (["--launcher", " ", "--"], "the launcher '' is neither"),
        (["--launcher", "'", "--"], "No closing quotation"),
        (["--", "--train.stepz", "5"], "did you mean train.steps?"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_wrong_request_is_an_error_of_one_line(
    arguments: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert supervise.main(arguments) == 2
    message = capfd.readouterr().err
    assert expected in message and message.count("\n") == 1
    assert not Path("starts.jsonl").exists()


def test_the_help_lists_each_option_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        supervise.main(["--help"])
    assert left.value.code == 0
    listed = " ".join(capsys.readouterr().out.split())
    assert all(option in listed for option in ("-np N", "-H HOSTS", "--launcher", "--max-restarts", "--backoff", "--shrink"))
    assert "seconds" in listed and "default: 3" in listed and "up to 300 (default: 1)" in listed and "75 stopped" in listed
