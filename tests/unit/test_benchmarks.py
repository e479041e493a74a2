"""The benchmarks' programs: what is started, what is read from it, and what becomes of one that fails."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import compare
import measure
import psutil
import pytest
import run
from measure import Program, ProgramFailed
from start import seconds_to_first_step

from vggdist.config.load import load
from vggdist.measuring.series import Series

PARAMETERS = 9_228_362


def python(code: str, copies: int = 1, environment: str = "") -> Program:
    """A program whose speed is the number that it prints."""
    return Program((sys.executable, "-c", code), lambda place: float((place / "output.txt").read_text()), environment, copies)


@pytest.mark.parametrize("name", ["mpi", "gloo-fp16", "ours-gloo", "ours-two-alone"])
def test_our_trainings_are_asked_for_as_it_is_said(name: str) -> None:
    command = {**compare.WAYS, **run.programs(16, run.PYTORCH)}[name].command
    config = load("train", command[command.index("vggdist.train") + 1 :])
    assert (config.model.name, config.model.batch_norm, config.model.hidden) == ("vgg11", True, ())
    assert (config.train.batch_size, config.train.steps, config.run.log_every) == (128, 24, 8)
    assert (config.augment.pad_crop, config.augment.flip) == (4, True)
    assert (config.optimizer.name, config.optimizer.momentum, config.optimizer.weight_decay) == ("sgd", 0.9, 5e-4)


def test_the_warm_up_does_not_count_and_longer_intervals_count_more(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    lines = [{"step": 8, "throughput/images_per_s": 1.0}, {"step": 8, "eval/loss": 0.0}]
    lines += [{"step": 16, "throughput/images_per_s": 8.0}, {"step": 18, "throughput/images_per_s": 1.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measure.reported(tmp_path) == pytest.approx(10 / (8 / 8 + 2 / 1))


def test_copies_are_summed_and_see_the_environment_of_their_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the shell, and not asked for
    code = "import os; print(os.environ['SPEED'] if 'OMP_NUM_THREADS' not in os.environ else 0)"
    assert measure.images_per_second("two", python(code, 2, "SPEED=3")) == 6


@pytest.mark.parametrize(
    ("code", "copies", "told"),
    [
        ("import sys; sys.exit('out of paper')", 1, "ended with 1:\nout of paper"),
        ("import os; os.kill(os.getpid(), 9)", 2, "ended with -9"),
        ("print('quite fast')", 1, "did not tell its speed"),
    ],
)
def test_a_program_that_fails_is_named_with_its_output(code: str, copies: int, told: str) -> None:
    with pytest.raises(ProgramFailed, match=f"(?s)^the printer .*{told}"):
        measure.images_per_second("the printer", python(code, copies))


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ProgramFailed, match="/nowhere/python"):
        measure.images_per_second("pytorch", Program(("/nowhere/python",), lambda place: 0.0, copies=2))


def test_a_program_that_does_not_end_is_named() -> None:
    with pytest.raises(ProgramFailed, match="the sleeper was not over after 0.1 s"):
        measure.images_per_second("the sleeper", python("import time; time.sleep(60)"), deadline=0.1)


def test_the_end_of_a_program_is_that_of_all_it_started(tmp_path: Path) -> None:
    code = "import subprocess; job = subprocess.Popen(['sleep', '60']); print(job.pid, flush=True); job.wait()"
    job = measure.started((sys.executable, "-c", code), tmp_path / "place")
    until = time.monotonic() + 60
    while not (number := (tmp_path / "place" / "output.txt").read_text()) and time.monotonic() < until:
        time.sleep(0.01)
    sleeper = psutil.Process(int(number))
    measure.end(job)
    _, alive = psutil.wait_procs([sleeper], timeout=10)
    assert job.returncode == -9 and all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_benchmark_that_is_terminated_ends_its_program(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        f"import os, time; print(os.getpid(), file=open('{note}', 'w'), flush=True); os.kill(os.getppid(), 15); time.sleep(60)"
    )
    former = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt):
            measure.take_turns({"the sleeper": python(code)}, 1)
    finally:
        signal.signal(signal.SIGTERM, former)
    assert not psutil.pid_exists(int(note.read_text()))


@pytest.mark.parametrize("prefix", ["", "[0]<stdout>:", "[1,0]<stdout>:"])
def test_a_peer_s_line_is_found_behind_what_its_launcher_writes(tmp_path: Path, prefix: str) -> None:
    line = json.dumps({"images_per_s": 123.5, "parameters": PARAMETERS, "loss": 2.3})
    (tmp_path / "output.txt").write_text(f"a warning\n{prefix}{line}\n[1]<stderr>: another\n")
    assert run.told(tmp_path) == 123.5


def test_a_peer_that_trains_another_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "output.txt").write_text(json.dumps({"images_per_s": 123.5, "parameters": PARAMETERS + 64}))
    with pytest.raises(ValueError, match="9228426 parameters instead of 9228362"):
        run.told(tmp_path)


def test_ratios_are_ours_to_theirs_turn_by_turn() -> None:
    speeds = {"ours-gloo": Series([200.0, 90.0]), "plain-mxnet": Series([100.0, 30.0])}
    head, mine, theirs = run.table(speeds).splitlines()
    assert "ours-gloo / it" in head and mine.endswith("1 (1 to 1)")
    assert theirs.split() == "plain-mxnet 65 (30 to 100) 2.5 (2 to 3)".split()


def test_a_failure_ends_the_comparison_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = {"ours-gloo": python("print(1)"), "plain-mxnet": python("import sys; sys.exit('no network')")}
    monkeypatch.setattr(run, "programs", lambda steps, pytorch: failing)
    monkeypatch.setattr(sys, "argv", ["run.py", "--repeats", "1"])
    with pytest.raises(SystemExit) as ended:  # with a text: Python prints it and exits with 1
        run.main()
    assert "plain-mxnet ended with 1:\nno network" in str(ended.value.code)


@pytest.mark.parametrize("arguments", [["--pytorch", "/nowhere/python"], ["tensorflow"]])
def test_what_cannot_be_compared_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        run.main()
    assert ended.value.code == 2 and arguments[-1] in capsys.readouterr().err


def test_a_start_that_fails_is_no_start() -> None:
    with pytest.raises(ProgramFailed, match="(?s)made no step.*not today"):
        seconds_to_first_step((sys.executable, "-c", "print('not today')"))
