"""Time from the death of a rank to the next step: ``.venv/bin/python benchmarks/restart.py``.

The quickstart runs on two ranks under ``vggdist supervise``. Each time a new checkpoint has been written, one rank gets
SIGKILL. The result is the time until the first step after that checkpoint is reported. Target: 10 s.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from measure import in_words, machine

from vggdist.checkpoints.store import CheckpointStore

FLAGS = ("--run.log_every", "1", "--train.epochs", "1000", "--schedule.name", "constant", "--evaluation.every_epochs", "0")
DEADLINE_S = 120


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--launcher", default="horovodrun --gloo", help="as vggdist supervise takes it (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=5, help="number of kills (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(options.launcher, options.kills, Path(folder))
    print(f"{in_words(machine())}; {options.launcher}, 2 ranks")
    print(f"n = {len(seconds)}: median {statistics.median(seconds):.1f} s, {min(seconds):.1f} to {max(seconds):.1f} s")


def measure(launcher: str, kills: int, folder: Path) -> list[float]:
    """Seconds from each kill to the first step that is reported after it."""
    command = [sys.executable, "-m", "vggdist.supervise", "-np", "2", "--launcher", launcher, "--", *FLAGS]
    run = folder / "runs" / "quickstart"
    store, metrics = CheckpointStore(run / "checkpoints"), run / "metrics.jsonl"
    seconds: list[float] = []
    with (folder / "output.txt").open("w") as output:
        supervisor = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        try:
            for _ in range(kills):
                newest = max(store.steps(), default=0)
                wait_for(partial(newer_checkpoint, store, newest))
                killed = time.monotonic()
                ranks(supervisor.pid)[-1].kill()
                file = metrics.stat().st_ino  # a resumed run writes a new file, truncated at the checkpoint
                saved = max(store.complete_steps())
                wait_for(partial(step_after, saved, metrics, file))
                seconds.append(time.monotonic() - killed)
        finally:
            supervisor.send_signal(signal.SIGTERM)
            supervisor.wait(timeout=DEADLINE_S)
    return seconds


def newer_checkpoint(store: CheckpointStore, step: int) -> bool:
    """Whether a whole checkpoint is newer than a step."""
    return max(store.complete_steps(), default=0) > step


def step_after(step: int, metrics: Path, old: int) -> bool:
    """Whether a step after this one is reported, in a file with another inode than ``old``."""
    lines = metrics.read_text().splitlines() if metrics.stat().st_ino != old else []
    return bool(lines) and int(json.loads(lines[-1])["step"]) > step


def ranks(supervisor: int) -> list[psutil.Process]:
    """The training processes below the supervisor, the highest rank last."""
    children = psutil.Process(supervisor).children(recursive=True)
    found = [process for process in children if process.cmdline()[1:3] == ["-m", "vggdist.train"]]
    return sorted(found, key=lambda process: int(process.environ().get("HOROVOD_RANK", 0)))


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll ten times a second; ``TimeoutError`` after the deadline."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"nothing within {DEADLINE_S} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
