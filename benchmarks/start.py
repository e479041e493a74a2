"""Time from the command to the first step: ``.venv/bin/python benchmarks/start.py``.

Trainings of the quickstart with one step are launched in turn, each in a new folder. The result is the time until that step is
in ``metrics.jsonl``. Target: 5 s.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from measure import ProgramFailed, in_words, machine, started

from vggdist.benchmarking.series import in_turn

TRAINING = ("python", "-m", "vggdist.train", "--train.steps", "1", "--evaluation.every_epochs", "0")
LAUNCHERS = ("", "horovodrun --gloo -np 2", "horovodrun -np 2")
DEADLINE_S = 120


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    found = machine()
    ways = {" ".join((*launcher.split(), *TRAINING[:3])): (*launcher.split(), *TRAINING) for launcher in LAUNCHERS}
    try:
        seconds = in_turn({name: partial(seconds_to_first_step, command) for name, command in ways.items()}, options.repeats)
    except ProgramFailed as failure:
        sys.exit(str(failure))
    print(f"{in_words(found)}, n = {options.repeats}")
    for name, taken in seconds.items():
        print(f"{name:<48} {taken} s")
    if options.json:
        figures = {name: taken.as_json() for name, taken in seconds.items()}
        options.json.write_text(json.dumps({"machine": found, "seconds": figures}, indent=2) + "\n")


def seconds_to_first_step(command: tuple[str, ...]) -> float:
    """Seconds from the launch of a training to the report of its first step; waits for its end.

    Raises:
        ProgramFailed: it ended before its first step, or did not reach it within the deadline.
    """
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        place = Path(folder) / "0"
        metrics = place / "runs" / "quickstart" / "metrics.jsonl"
        launched = time.monotonic()
        try:
            with started(command, place) as job:
                while not (metrics.exists() and metrics.stat().st_size > 0):
                    if job.poll() is not None or time.monotonic() > launched + DEADLINE_S:
                        output = (place / "output.txt").read_text(errors="replace")
                        raise ProgramFailed(f"{' '.join(command)} made no step:\n{output}")
                    time.sleep(0.01)
                seconds = time.monotonic() - launched
                job.wait(timeout=DEADLINE_S)
                return seconds
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{' '.join(command)} did not end within {DEADLINE_S} s of its only step") from None


if __name__ == "__main__":
    main()
