"""The supervisor around real ranks: one that dies is started again, one that is asked to stop is not."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.launching import DEADLINE, Running, command_line, result_of
from vggdist.checkpoints.store import CheckpointStore

STEPS = 12
FLAGS = [
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--checkpoint.every_steps", "3"),
    *("--evaluation.every_epochs", "0"),
]
# Python runs it at the start of each process. Ranks wait between two steps, where they look for stop requests.
_WAIT_IN_THE_TRAINING = """
import os, sys, time
from pathlib import Path

if sys.orig_argv[1:3] == ["-m", "vggdist.train"]:
    from vggdist.processes.signals import StopRequests

    reason, calls = StopRequests.reason, []

    def waits(self):
        calls.append(None)
        if len(calls) == 8:
            Path(f"waits-{os.getpid()}").touch()
            while not Path("go").exists():
                time.sleep(0.02)
        return reason.fget(self)

    StopRequests.reason = property(waits)
"""


def supervised(launcher: str, cwd: Path, *flags: str, steps: int = STEPS) -> Running:
    """A supervisor of two ranks, both of which wait in the training for a file ``go``, with a checkpoint behind them."""
    words = command_line(launcher, 2)
    own = ["--launcher", " ".join(words[: words.index("-np")]), "--backoff", "0.5", *flags]
    command = [sys.executable, "-m", "vggdist.supervise", "-np", "2", *own, "--", *FLAGS, "--train.steps", str(steps)]
    (cwd / "start").mkdir()
    (cwd / "start" / "sitecustomize.py").write_text(_WAIT_IN_THE_TRAINING)
    path = os.pathsep.join([str(cwd / "start"), str(Path(__file__).parents[2])])
    running = Running(command, cwd, DEADLINE, PYTHONPATH=path)
    store = CheckpointStore(cwd / "runs" / "quickstart" / "checkpoints")
    running.wait_for(lambda: len([*cwd.glob("waits-*")]) == 2 and bool(store.complete_steps()))
    return running


@pytest.mark.parametrize(("launcher", "shrink"), [("horovodrun --gloo", True), ("mpirun", False)])
def test_a_run_whose_rank_is_killed_continues_to_its_end_on_fewer_ranks_where_asked(
    launcher: str, shrink: bool, tmp_path: Path
) -> None:
    running = supervised(launcher, tmp_path, *["--shrink"] * shrink)
    running.rank(1).kill()
    (tmp_path / "go").touch()
    finished = running.finish()
    assert finished.code == 0, finished.output
    assert re.search(r"^supervise: attempt 2 after 0.5 s: rank 1 \(.* is lost.*; continuing from step ", finished.output, re.M)
    assert "continuing from the checkpoint at step" in finished.output
    assert ("on 1 rank(s), adding --train.global_batch_size 32" in finished.output) == shrink
    assert "attempt 3" not in finished.output
    result = result_of(tmp_path)
    assert (result["exit_code"], result["step"], result["world_size"]) == (0, STEPS, 1 if shrink else 2)


@pytest.mark.parametrize("launcher", ["horovodrun", "mpirun"])
def test_a_stop_request_ends_the_job_with_a_checkpoint(launcher: str, tmp_path: Path) -> None:
    """finish() checks that nothing is left running, as plain horovodrun on MPI would leave it."""
    running = supervised(launcher, tmp_path, steps=100_000)
    running.process.terminate()
    running.wait_for(lambda: "supervise: SIGTERM forwarded to 2 rank(s)" in running.output)
    (tmp_path / "go").touch()
    finished = running.finish()
    assert "attempt 2" not in finished.output
    assert finished.code == 75, finished.output
    assert result_of(tmp_path)["exit_code"] == 75
