"""Train a VGG: ``horovodrun -np 4 python -m vggdist.train --config configs/quickstart.yaml``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from vggdist.api import run_training
from vggdist.config.errors import before_start
from vggdist.config.load import load
from vggdist.exit_handling import ExitHandler
from vggdist.processes.signals import StopRequests, ignore_stop_signals
from vggdist.reporting.console import start_logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit code: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped and saved.

    A signal before the first step ends with 75 if there is a checkpoint, else with 128 and the signal's number.
    """
    started = time.monotonic()
    arguments = sys.argv[1:] if arguments is None else arguments
    handler = ExitHandler()
    with StopRequests(handler.rank, handler.size, handler.stop_before_first_step) as stop:
        return handler.run(lambda: train(arguments, handler, stop, started))


def train(arguments: Sequence[str], handler: ExitHandler, stop: StopRequests, started: float) -> dict[str, Any]:
    """Train with the given arguments; returns the content of ``result.json``."""
    start_logging(handler.rank)
    with before_start():
        config = load("train", arguments)
    return run_training(config, handler, stop, started)


if __name__ == "__main__":
    code = main()
    ignore_stop_signals()
    sys.exit(code)
