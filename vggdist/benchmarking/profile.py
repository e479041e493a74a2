"""Traces of bare steps, operator by operator, for Perfetto and chrome://tracing.

Speeds are not measured here: recording takes time, and Horovod's writer keeps a core of rank 0 busy while recording is
enabled. So this is a separate benchmark.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mxnet as mx

from vggdist.benchmarking.bare_step import bare_step
from vggdist.benchmarking.step import measured_config
from vggdist.collectives.world import World
from vggdist.config.bench import BenchRequest
from vggdist.config.load import run_directory
from vggdist.training.setup import prepare

_OPERATORS = "operator"  # the trace's category of operations that the engine ran


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Record ``bench.steps`` bare steps. Every rank must call this.

    Returns:
        ``mxnet``: the file of each rank, with its operators and its calls of MXNet; ``horovod``: the file of Horovod's
        timeline, None for one rank; ``operators``: milliseconds per step on rank 0 by operator, longest first.
    """
    directory, steps = run_directory(request), request.bench.steps
    training = prepare(measured_config(request, "profile"), world)
    bare_step(training, request.bench.warmup, beat)
    world.together(lambda: directory.mkdir(parents=True, exist_ok=True))
    trace, timeline = directory / f"profile-mxnet-{world.rank}.json", directory / "profile-horovod.json"
    with world.timeline(timeline), _recorded(trace):
        bare_step(training, steps, beat)
    content = json.loads(trace.read_text())
    renumber(content["traceEvents"])
    trace.write_text(json.dumps(content))
    return {
        "mxnet": world.gather(str(trace)),
        "horovod": str(timeline) if world.size > 1 else None,
        "operators": {name: seconds / steps for name, seconds in operator_times(content["traceEvents"]).items()},
    }


@contextmanager
def _recorded(path: Path) -> Iterator[None]:
    mx.profiler.set_config(profile_all=True, filename=str(path))
    mx.profiler.set_state("run")
    yield
    mx.profiler.set_state("stop")
    mx.profiler.dump()


def renumber(events: list[dict[str, Any]]) -> None:
    """Replace the ids of processes, threads and spans by small numbers: viewers that read doubles confuse 64-bit ids."""
    for key in ("pid", "tid", "id"):
        numbers: dict[int, int] = {}
        for event in events:
            if key in event:
                event[key] = numbers.setdefault(event[key], len(numbers))


def operator_times(events: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds in each of the engine's operators, longest first.

    MXNet records each operator twice: as a span of its device's row, and as an asynchronous span. Only the latter are
    counted, since overlapping spans of a row cannot be distinguished.
    """
    starts: dict[tuple[Any, ...], float] = {}
    times: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") != _OPERATORS:
            continue
        span = event["name"], event["tid"], event.get("id")
        if event["ph"] == "b":
            starts[span] = event["ts"]
        elif event["ph"] == "e" and span in starts:
            times[event["name"]] += (event["ts"] - starts.pop(span)) / 1000
    return dict(sorted(times.items(), key=lambda pair: -pair[1]))
