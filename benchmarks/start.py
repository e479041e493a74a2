"""From the command to the first step: ``.venv/bin/python benchmarks/start.py``.

Trainings of the quickstart that end after one step are launched in turn, each in a folder of its own; the time until that step
stands in ``metrics.jsonl`` counts. The bar: 5 s.
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

from measure import ProgramFailed, end, in_words, machine, started

from vggdist.benchmarking.series import in_turn

TRAINING = ("python", "-m", "vggdist.train", "--train.steps", "1", "--evaluation.every_epochs", "0")
LAUNCHERS = ("", "horovodrun --gloo -np 2", "horovodrun -np 2")
DEADLINE_S = 120


def main() -> None:
    """Measure, print a table, and write the figures where ``--json`` says."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    asked.add_argument("--json", type=Path, help="file for all figures")
    options = asked.parse_args()
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
    """Launch a training, and wait for its end once its first step is reported.

    Raises:
        ProgramFailed: it ended before, or did not come so far.
    """
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        place = Path(folder) / "0"
        metrics = place / "runs" / "quickstart" / "metrics.jsonl"
        launched = time.monotonic()
        job = started(command, place)
        try:
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
        finally:
            end(job)


if __name__ == "__main__":
    main()
