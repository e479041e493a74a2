"""Measure this machine: ``python -m vggdist.bench step``, ``horovodrun -np 2 python -m vggdist.bench allreduce``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from vggdist.config.bench import BenchRequest
from vggdist.config.load import load_as, requested_run_directory
from vggdist.ending import Ending
from vggdist.world import knobs
from vggdist.world.topology import from_environment

KINDS = {
    "step": "images/s of the bare step, of the whole training around it, and their ratio",
    "allreduce": "bytes against time on the network's own gradients",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write ``bench-<kind>.json`` into the run's folder, and return the exit code, as training does."""
    arguments = sys.argv[1:] if arguments is None else arguments
    kind, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if kind not in KINDS:
        lines = "\n".join(f"  {name:10} {text}" for name, text in KINDS.items())
        print(f"usage: python -m vggdist.bench KIND [--config FILE] [--section.key value ...]\n\n{lines}")
        return 0 if kind in ("-h", "--help") else 2
    if kind == "allreduce":  # a reduction that is waited for would else take one cycle of 20 ms, whatever its size
        os.environ.setdefault("HOROVOD_CYCLE_TIME", "0.1")
    settings = knobs.apply(rest)  # before anything imports MXNet
    ending = Ending(requested_run_directory(rest), f"bench-{kind}.json")
    return ending.of(lambda: bench(kind, rest, settings, ending))


def bench(kind: str, arguments: Sequence[str], settings: knobs.Settings, ending: Ending) -> dict[str, Any]:
    """Measure as the arguments say; returns what the JSON file tells."""
    if from_environment(os.environ).size == 1 or "--help" in arguments:
        load_as(BenchRequest, f"bench {kind}", arguments)  # a wrong request is refused before MXNet's import
    from vggdist.measuring.allreduce import measure_allreduce
    from vggdist.measuring.load import OtherLoad
    from vggdist.measuring.step import measure_step
    from vggdist.reporting.console import start_logging
    from vggdist.world.process import World, versions

    world = World()
    request = world.together(lambda: load_as(BenchRequest, f"bench {kind}", arguments))
    start_logging(world.is_root, world.rank, None)
    watch = ending.watch(world, request.run.timeout)
    watch.rest()  # reading the data may take long
    load = OtherLoad(world)
    measured = {"step": measure_step, "allreduce": measure_allreduce}[kind](request, world, watch.beat)
    watch.rest()
    others = 100 * load.share()
    if world.is_root:
        print("\n".join({"step": step_table, "allreduce": allreduce_table}[kind](measured, world.size)))
        print(f"others used {others:.0f} % of this host's cores meanwhile", flush=True)
    return {
        **measured,
        "others(%)": others,
        "world_size": world.size,
        "controller": world.controller,
        "environment": settings.as_json(world.gather),
        "versions": versions(),
    }


def step_table(measured: dict[str, Any], ranks: int) -> Iterator[str]:
    """Median, smallest and largest of each."""
    yield f"{'':22}{'median':>10}{'min':>10}{'max':>10}"
    titles = {"bare": "bare step, images/s", "training": "training, images/s", "ratio": "training / bare step"}
    for name, title in titles.items():
        values = [measured[name][key] for key in ("median", "min", "max")]
        yield f"{title:22}" + "".join(f"{value:>10.3f}" if name == "ratio" else f"{value:>10.1f}" for value in values)


def allreduce_table(measured: dict[str, Any], ranks: int) -> Iterator[str]:
    """A row for each size; the bandwidth is that of each link of a ring, 2 (n - 1) / n x bytes / time."""
    ways = [way for way in ("horovod", "mpi") if way in measured["sizes"][0]]
    yield f"{'bytes':>12}" + "".join(f"{way + ' ms':>14}{'(min - max)':>20}{'Gbit/s':>9}" for way in ways) + "  layers"
    for row in measured["sizes"]:
        line = f"{row['bytes']:>12,}"
        for way in ways:
            low, middle, high = (1000 * row[way][key] for key in ("min", "median", "max"))
            gigabits = 2 * (ranks - 1) / ranks * row["bytes"] * 8e-6 / middle
            line += f"{middle:>14.3f}{f'({low:.3f} - {high:.3f})':>20}{gigabits:>9.2f}"
        yield f"{line}  {', '.join(row['layers'])}"
    link = f"latency {measured['latency_us']:.0f} us, bandwidth {measured['bandwidth_gbit_s']:.1f} Gbit/s"
    yield f"for vggdist plan: {link} between two ranks"


if __name__ == "__main__":
    sys.exit(main())
