"""The supervisor around real ranks: one that dies is started again, one that is told to stop is not."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.launching import Finished, command_line, execute, result_of

STEPS = 225  # 5 epochs, a checkpoint after each
DEADLINE = 240


def supervise(launcher: str, cwd: Path, number: int, chosen: Callable[[psutil.Process], bool], *flags: str) -> Finished:
    """Supervise two ranks of the quickstart, shortened; one process gets a signal once the run has a checkpoint."""
    words = command_line(launcher, 2)
    own = ["--launcher", " ".join(words[: words.index("-np")]), "--backoff", "0.5", *flags]
    command = [sys.executable, "-m", "vggdist.supervise", "-np", "2", *own, "--", "--train.steps", str(STEPS)]
    watcher = threading.Thread(target=signal_once, args=(cwd, number, chosen, DEADLINE), daemon=True)
    watcher.start()
    return execute(command, cwd, DEADLINE)


def signal_once(cwd: Path, number: int, chosen: Callable[[psutil.Process], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for process in psutil.process_iter() if list(cwd.glob("runs/quickstart/checkpoints/step-*")) else ():
            try:
                if process.cwd() == str(cwd) and chosen(process):
                    return os.kill(process.pid, number)
            except psutil.Error:
                continue
        time.sleep(0.02)


def is_rank_1(process: psutil.Process) -> bool:
    place = process.environ()
    return process.cmdline()[1:3] == ["-m", "vggdist.train"] and "1" in (
        place.get("HOROVOD_RANK"),
        place.get("OMPI_COMM_WORLD_RANK"),
    )


def is_supervisor(process: psutil.Process) -> bool:
    return process.cmdline()[1:3] == ["-m", "vggdist.supervise"]


@pytest.mark.parametrize("launcher", ["horovodrun --gloo", "mpirun"])
def test_a_run_whose_rank_is_killed_continues_to_its_end(launcher: str, tmp_path: Path) -> None:
    finished = supervise(launcher, tmp_path, signal.SIGKILL, is_rank_1)
    assert finished.code == 0, finished.output
    assert "supervise: attempt 2 after 0.5 s: " in finished.output and "; continuing from step " in finished.output
    assert "continuing from the checkpoint at step" in finished.output
    assert "attempt 3" not in finished.output
    result = result_of(tmp_path)
    assert (result["exit_code"], result["step"], result["world_size"]) == (0, STEPS, 2)


def test_a_run_whose_rank_is_killed_continues_on_fewer_ranks_where_asked(tmp_path: Path) -> None:
    finished = supervise("horovodrun --gloo", tmp_path, signal.SIGKILL, is_rank_1, "--shrink")
    assert finished.code == 0, finished.output
    assert "on 1 rank(s), adding --train.global_batch_size 32" in finished.output
    result = result_of(tmp_path)
    assert (result["exit_code"], result["step"], result["world_size"]) == (0, STEPS, 1)


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_a_stop_request_ends_the_job_with_a_checkpoint(launcher: str, tmp_path: Path) -> None:
    """That nothing is left running, which plain horovodrun on MPI would do, is looked at by execute()."""
    finished = supervise(launcher, tmp_path, signal.SIGTERM, is_supervisor)
    assert "supervise: SIGTERM forwarded to 2 rank(s)" in finished.output, finished.output
    assert "attempt 2" not in finished.output
    assert finished.code == 75, finished.output
    assert result_of(tmp_path)["exit_code"] == 75
