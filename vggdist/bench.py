"""Measure this machine: ``python -m vggdist.bench scaling``, ``horovodrun -np 2 python -m vggdist.bench allreduce``."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vggdist.benchmarking.tables import TABLES
from vggdist.config.bench import BenchRequest
from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import BeforeStart, RequestError, before_start
from vggdist.config.load import run_directory, training_settings
from vggdist.config.options import options
from vggdist.environment import variables
from vggdist.exit_handling import ExitHandler
from vggdist.launcher.topology import from_environment
from vggdist.reporting.console import start_logging
from vggdist.reporting.result import write_json


@dataclass(frozen=True)
class Kind:
    """A benchmark.

    Attributes:
        text: what it measures.
        module: in :mod:`vggdist.benchmarking`, with a function ``measure``.
        starts_ranks: it is started once, without a launcher, and starts the ranks itself.
        environment: variables to set before Horovod starts, unless the user has set them.
    """

    text: str
    module: str
    starts_ranks: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


KINDS = {
    "step": Kind("images/s of the bare step, of the whole training around it, their ratio, and each rank's shares", "step"),
    "input": Kind("images/s of the input alone: reading, decoding and augmentation, without a network", "input"),
    "scaling": Kind("images/s and efficiency on several numbers of ranks, weak and strong", "scaling", starts_ranks=True),
    "tune": Kind("which environment settings are faster on this machine than the defaults", "tuning", starts_ranks=True),
    "profile": Kind(
        "no speeds: traces of MXNet and Horovod in some steps, for Perfetto and chrome://tracing",
        "profile",
        # Otherwise MXNet runs a dozen operators as one, with one name.
        environment={"HOROVOD_TIMELINE": "DYNAMIC", "MXNET_EXEC_BULK_EXEC_TRAIN": "0"},
    ),
    # Otherwise a reduction that is waited for takes one cycle, whatever its size.
    "allreduce": Kind(
        "bytes against time on the network's own gradients", "allreduce", environment={"HOROVOD_CYCLE_TIME": "0.1"}
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write ``bench-<kind>.json`` into the run's folder, and return the exit code, as training does."""
    arguments = sys.argv[1:] if arguments is None else arguments
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name not in KINDS:
        print("usage: python -m vggdist.bench KIND [--config FILE] [--section.key value ...]\n")
        print("\n".join(f"  {name:10} {kind.text}" for name, kind in KINDS.items()))
        print("\npython -m vggdist.bench KIND --help lists the options")
        return 0 if name in ("-h", "--help") else 2
    handler = ExitHandler()
    if KINDS[name].starts_ranks:
        return handler.run(lambda: start_ranks(name, rest))
    for variable, value in KINDS[name].environment.items():
        os.environ.setdefault(variable, value)
    return handler.run(lambda: run_as_rank(name, rest, handler))


def start_ranks(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure with ranks that this process starts; returns the content of the JSON file."""
    if from_environment(os.environ).size > 1:
        raise BeforeStart(f"bench {name} starts the ranks itself; start it once, without a launcher (see --bench.launcher)")
    request = _request(name, arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: the running job is ended first
        signal.signal(number, signal.default_int_handler)
    try:
        measured = _measure(name)(request, arguments)
        show(name, measured, run_directory(request))
        return _written(name, request, measured)
    except OSError as error:
        raise RequestError(str(error)) from error


def run_as_rank(name: str, arguments: Sequence[str], handler: ExitHandler) -> dict[str, Any]:
    """Measure as one of the ranks; returns the content of the JSON file."""
    start_logging(handler.rank)
    with before_start():
        request = _request(name, arguments)
        settings = variables.apply(request)  # before anything imports MXNet
    from vggdist.benchmarking.cpu_load import OtherLoad
    from vggdist.collectives.world import World, versions

    world = World()
    watch = handler.watch(world, request.run.timeout)
    watch.pause()  # reading the data may take long
    load = OtherLoad(world)
    measured = {"world_size": world.size, **_measure(name)(request, world, watch.beat)}
    watch.pause()
    others = 100 * load.share()
    world.together(lambda: show(name, measured, run_directory(request)) if world.is_root else None)
    if world.is_root:
        print(f"other processes used {others:.0f} % of this host's cores", flush=True)
    measured |= {
        "others(%)": others,
        "controller": world.controller,
        "environment": settings.as_json(world.gather),
        "versions": versions(),
    }
    return world.together(lambda: _written(name, request, measured) if world.is_root else measured)


def _request(name: str, arguments: Sequence[str]) -> BenchRequest:
    own = [key for key in options(BenchRequest) if key.startswith("bench.")]
    parser = SettingsParser(f"bench {name}", BenchRequest, first=own, description=f"Measures {KINDS[name].text}.")
    return training_settings(parser.parse(arguments).settings, BenchRequest)


def _written(name: str, request: BenchRequest, measured: dict[str, Any]) -> dict[str, Any]:
    write_json(run_directory(request) / f"bench-{name}.json", measured)
    return measured


def show(name: str, measured: dict[str, Any], directory: Path) -> None:
    """Print the table and, if the kind has a chart, plot it to ``bench-<kind>.png`` and TensorBoard."""
    from vggdist.benchmarking.charts import CHARTS  # after variables.apply: numpy reads its environment at import
    from vggdist.reporting.figures import publish

    print("\n".join(TABLES[name](measured)), flush=True)
    if name in CHARTS:
        print(f"plot: {publish(CHARTS[name](measured), directory, f'bench-{name}')}", flush=True)


def _measure(name: str) -> Any:
    return importlib.import_module(f"vggdist.benchmarking.{KINDS[name].module}").measure


if __name__ == "__main__":
    sys.exit(main())
