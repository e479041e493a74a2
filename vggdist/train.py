"""Train a VGG: ``horovodrun -np 4 python -m vggdist.train --config configs/quickstart.yaml``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

from vggdist.config.duration import parse_duration
from vggdist.config.load import load, requested_run_directory
from vggdist.ending import Ending
from vggdist.world import knobs, meeting, streams
from vggdist.world.signals import StopRequests
from vggdist.world.topology import from_environment


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, and return the exit code: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped and saved."""
    streams.protect()
    arguments = sys.argv[1:] if arguments is None else arguments
    settings = knobs.apply(arguments)  # before anything imports MXNet
    ending = Ending(requested_run_directory(arguments))
    return ending.of(lambda: train(arguments, settings, ending))


def train(arguments: Sequence[str], settings: knobs.Settings, ending: Ending) -> dict[str, Any]:
    """Train as the arguments say; returns what ``result.json`` tells."""
    started = time.monotonic()
    if from_environment(os.environ).size == 1 or "--help" in arguments:
        load("train", arguments)  # a wrong request is refused before MXNet's import, which takes seconds
    meeting.arrive()
    from vggdist.training.elastic import survive
    from vggdist.training.run import Run
    from vggdist.world.process import World

    world = World()
    config = world.together(lambda: load("train", arguments))
    limit = config.run.max_time
    stop = StopRequests(world.rank, world.size, started + parse_duration(limit) if limit is not None else None)
    run = Run(config, settings, stop, ending.watch, started)
    return survive(run.on, world, run.memory, ending.close_watch) if config.run.elastic else run.on(world)


if __name__ == "__main__":
    sys.exit(main())
