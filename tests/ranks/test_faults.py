"""A fault on one rank ends the whole job in time, with one message and the right exit code, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.disks import small_disk
from tests.launching import DEADLINE, Running, result_of, run, start
from vggdist.checkpoints.store import CheckpointStore

TINY = [
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--train.global_batch_size", "24"),
    *("--run.log_every", "5"),
    *("--evaluation.every_epochs", "0"),
    *("--checkpoint.every_steps", "50"),
]
LONG = [*TINY, "--train.steps", "100000"]  # an hour: it must be ended
LAUNCHERS = ["horovodrun --gloo", "mpirun"]
MPIRUN_WAITS_S = "5"  # twice as long, for ranks on busy cores; 2 s by default
SHORT_GRACE_S = "1"  # of tests.horovodrun; a frozen rank does not use it


def steps_made(folder: Path) -> int:
    """The newest step that a run has reported."""
    path = folder / "runs" / "quickstart" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def started(launcher: str, folder: Path, *flags: str, size: int = 2, grace_s: str = "60") -> Running:
    """A run that has made some steps."""
    running = start(
        launcher, size, folder, *LONG, *flags, VGGDIST_TEST_GRACE_S=grace_s, OMPI_MCA_odls_base_sigkill_timeout=MPIRUN_WAITS_S
    )
    running.wait_for(lambda: steps_made(folder) >= 60)
    return running


def checkpoints(folder: Path) -> CheckpointStore:
    return CheckpointStore(folder / "runs" / "quickstart" / "checkpoints")


def newest(folder: Path) -> Any:
    found = checkpoints(folder).newest()
    assert found is not None
    return found.state


@pytest.mark.parametrize(
    ("launcher", "number", "rank"),
    [
        ("horovodrun --gloo", signal.SIGUSR1, 1),
        ("mpirun", signal.SIGTERM, 0),
    ],
)
def test_a_signal_to_any_rank_stops_all_at_one_step_with_a_checkpoint(
    launcher: str, number: signal.Signals, rank: int, tmp_path: Path
) -> None:
    running = started(launcher, tmp_path)
    running.rank(rank).send_signal(number)
    finished = running.finish()
    assert finished.code != 0
    result = result_of(tmp_path)
    assert result["exit_code"] == 75, finished.output
    step = newest(tmp_path)["step"]
    assert f"stopped by {number.name} on rank {rank}; step {step} is saved" in result["error"]
    assert finished.output.count("is saved: start the same command again") == 1


def test_a_second_interrupt_ends_at_once_even_when_the_main_thread_hangs(tmp_path: Path) -> None:
    arguments = json.dumps({"flags": [*LONG], "fault": "hang", "rank": 0})
    work = [sys.executable, "-m", "tests.ranks.work", "--fault", arguments]
    running = Running(work, tmp_path, DEADLINE)
    running.wait_for((tmp_path / "hangs").exists)
    for _ in range(2):
        running.process.send_signal(signal.SIGINT)
        time.sleep(1)  # two that come at once are one
    finished = running.finish()
    assert finished.code == 1 and "interrupted twice; ending without a checkpoint" in finished.output


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_killed_rank_0_ends_the_job_and_is_named(launcher: str, tmp_path: Path) -> None:
    """Another rank: tests/launch/test_supervise.py."""
    running = started(launcher, tmp_path)
    running.wait_for(lambda: checkpoints(tmp_path).newest() is not None)  # it is written beside the steps
    running.rank(0).kill()
    assert running.finish().code != 0
    result = result_of(tmp_path)
    assert result["exit_code"] == 1 and "rank 0 (" in result["error"] and "is lost" in result["error"]
    assert newest(tmp_path)["step"] >= 50


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_that_is_frozen_ends_the_job_within_the_timeout_and_is_named(launcher: str, tmp_path: Path) -> None:
    running = started(launcher, tmp_path, "--run.timeout", "8", grace_s=SHORT_GRACE_S)
    running.rank(1).suspend()
    assert running.finish().code != 0
    found = re.search(r"rank 1 \(.*no heartbeat for (\d+) s", result_of(tmp_path)["error"])
    assert found and 8 <= int(found[1]) < 60  # well below the default, though the machine may be busy


def test_a_rank_that_is_frozen_before_the_ranks_have_met_is_named(tmp_path: Path) -> None:
    running = start(
        "horovodrun --gloo", 2, tmp_path, *LONG, HOROVOD_GLOO_TIMEOUT_SECONDS="4", VGGDIST_TEST_GRACE_S=SHORT_GRACE_S
    )
    running.wait_for(lambda: running.has(1))
    running.rank(1).suspend()
    finished = running.finish()
    assert finished.code != 0
    expected = r"rank 0: the ranks did not connect within .*, 4 s: rank 1( \(.*, pid \d+\))? has not reached hvd.init"
    assert re.search(expected, finished.output), finished.output


def with_fault(launcher: str, folder: Path, fault: str, rank: int, *flags: str) -> str:
    """Run with a fault on one rank; returns the output of a job that failed."""
    arguments = json.dumps({"flags": [*TINY, "--train.steps", "60", *flags], "fault": fault, "rank": rank})
    finished = run(
        launcher,
        2,
        ["-m", "tests.ranks.work", "--fault", arguments],
        folder,
        OMPI_MCA_odls_base_sigkill_timeout=MPIRUN_WAITS_S,
    )
    assert finished.code != 0, finished.output
    return finished.output


@pytest.mark.parametrize(
    ("launcher", "fault", "rank"),
    [
        ("horovodrun --gloo", "error in a step", 1),
        ("horovodrun --gloo", "error in an evaluation", 1),
        ("horovodrun --gloo", "error in a checkpoint", 0),
        ("mpirun", "error in a step", 1),
    ],
)
def test_an_error_on_one_rank_ends_the_job_with_its_trace(launcher: str, fault: str, rank: int, tmp_path: Path) -> None:
    output = with_fault(launcher, tmp_path, fault, rank)
    error = result_of(tmp_path)["error"]
    assert error.startswith(f"rank {rank}: ZeroDivisionError: a bug\nTraceback"), output
    assert "ZeroDivisionError: a bug" in output
    if fault == "error in an evaluation":  # its step was saved before it
        assert checkpoints(tmp_path).complete_steps()[-1] == 60


def test_a_rank_whose_main_thread_hangs_is_named_with_its_stack(tmp_path: Path) -> None:
    output = with_fault("horovodrun --gloo", tmp_path, "hang", 1, "--run.timeout", "8")
    found = re.search(r"rank 1: no progress for (\d+) s", output)
    assert found and 8 <= int(found[1]) < 60 and "in sleep" in output
    assert "rank 1 (" in result_of(tmp_path)["error"]


def test_without_space_the_training_goes_on_and_the_end_reports_it(tmp_path: Path) -> None:
    output = with_fault("horovodrun --gloo", tmp_path, "no space", 0)
    assert output.count("could not be written") >= 2 and "the training continues" in output
    result = result_of(tmp_path)
    assert result["exit_code"] == 1 and "the newest checkpoint could not be written" in result["error"]


def test_a_disk_that_is_full_for_a_while_leaves_no_gap(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with small_disk(tmp_path / "runs", "8m"):
        running = started("python", tmp_path, size=1)
        with (tmp_path / "runs" / "other").open("wb", buffering=0) as other:

            def is_noticed() -> bool:
                with contextlib.suppress(OSError):
                    while True:  # each time: a checkpoint that fails frees space
                        other.write(bytes(4096))
                names = ("metrics.jsonl", "events.out.tfevents", "checkpoint of step")
                return all(re.search(rf"{name}.* (cannot|could not) be written", running.output) for name in names)

            running.wait_for(is_noticed)
        full = steps_made(tmp_path)
        (tmp_path / "runs" / "other").unlink()
        running.wait_for(lambda: steps_made(tmp_path) > full + 100)
        running.process.send_signal(signal.SIGTERM)
        finished = running.finish()
        assert finished.code == 75, finished.output
        lines = (tmp_path / "runs" / "quickstart" / "metrics.jsonl").read_text().splitlines()
        reported = [json.loads(line)["step"] for line in lines]
        events = EventAccumulator(str(tmp_path / "runs" / "quickstart"), {"scalars": 0})
        events.Reload()
        assert reported == [event.step for event in events.Scalars("train/loss")] == [*range(5, reported[-1] + 1, 5)]
    assert "metrics.jsonl cannot be written: No space" in finished.output
    assert "metrics.jsonl is written again; nothing is lost" in finished.output
