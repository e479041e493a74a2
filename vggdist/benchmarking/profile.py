"""Some bare steps as they go by, operator by operator, in files that Perfetto and chrome://tracing open.

Nothing here is a speed: recording takes time of its own, and Horovod's writer keeps a core of rank 0 busy as long as Horovod
may record at all. So this is a benchmark of its own instead of a part of another.
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

_OPERATORS = "operator"  # MXNet's name of the process under which it files what its engine ran


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Record ``bench.steps`` bare steps. Every rank must call this.

    Returns:
        ``mxnet``: the file of each rank, with its operators and its calls of MXNet; ``horovod``: the file of Horovod's
        timeline, or None for one rank, which has none; ``operators``: for each name the milliseconds of a step that it took
        on rank 0, longest first.
    """
    directory, steps = run_directory(request), request.bench.steps
    training = prepare(measured_config(request, "profile"), world)
    bare_step(training, request.bench.warmup, beat)
    world.together(lambda: directory.mkdir(parents=True, exist_ok=True))
    trace, timeline = directory / f"profile-mxnet-{world.rank}.json", directory / "profile-horovod.json"
    with world.timeline(timeline), _recorded(trace):
        bare_step(training, steps, beat)
    content = json.loads(trace.read_text())
    number_anew(content["traceEvents"])
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


def number_anew(events: list[dict[str, Any]]) -> None:
    """Give processes, threads and spans small numbers: MXNet's have 64 bits, which viewers that read doubles mix up."""
    for key in ("pid", "tid", "id"):
        numbers: dict[int, int] = {}
        for event in events:
            if key in event:
                event[key] = numbers.setdefault(event[key], len(numbers))


def operator_times(events: list[dict[str, Any]]) -> dict[str, float]:
    """Milliseconds in each of the engine's operators, longest first.

    MXNet records each operator twice: as a span of its device's row, and, begin and end one after the other, as an
    asynchronous one. Only the latter are counted, for spans of a row that overlap cannot be told apart.
    """
    begun: dict[tuple[Any, ...], float] = {}
    times: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") != _OPERATORS:
            continue
        span = event["name"], event["tid"], event.get("id")
        if event["ph"] == "b":
            begun[span] = event["ts"]
        elif event["ph"] == "e" and span in begun:
            times[event["name"]] += (event["ts"] - begun.pop(span)) / 1000
    return dict(sorted(times.items(), key=lambda pair: -pair[1]))
