"""Checks whether a run would work: ``horovodrun -np 2 python -m vggdist.doctor``, instead of train, with any launcher."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import RequestError, RunError, agreed, before_start
from vggdist.config.load import training_settings
from vggdist.config.schema import Config
from vggdist.diagnosis import gpu_stack
from vggdist.diagnosis.findings import Finding, RankReport, of_allreduce, of_disk, of_ranks, place_map
from vggdist.environment import variables
from vggdist.environment.network_interfaces import interface_towards
from vggdist.exit_handling import ExitHandler
from vggdist.launcher import slurm
from vggdist.launcher.topology import launcher
from vggdist.reporting.console import start_logging
from vggdist.reporting.result import write_json

if TYPE_CHECKING:
    import mxnet as mx

    from vggdist.collectives.world import World

_PROBE_BYTES, _PROBES = 16 * 2**20, 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; returns 0 if a run would work, 1 if it would fail, 2 for a wrong request."""
    handler = ExitHandler()
    return handler.run(lambda: diagnose(sys.argv[1:] if arguments is None else arguments, handler))


def diagnose(arguments: Sequence[str], handler: ExitHandler) -> dict[str, Any]:
    """Examine every rank, print the findings on rank 0, and write them to ``doctor.json`` in ``run.directory``.

    Raises:
        RunError: on every rank, if a run would fail.
    """
    start_logging(handler.rank)
    with before_start():
        parsed = _parser().parse(arguments)
        config = training_settings(parsed.settings, Config)
        settings = variables.apply(config)  # before anything imports MXNet
    import horovod.mxnet as hvd
    import mxnet as mx

    from vggdist.collectives.world import World

    world = World()
    device, own_report = _examine(world, config.run.device)
    reports = [RankReport(**one) for one in world.gather(asdict(own_report))]
    of_cards = gpu_stack.findings(world, device, config.run.elastic)
    broken = any(finding.level == "error" for finding in of_cards)  # then a reduction on the GPUs may kill the process
    free = world.gather(_free(Path(config.run.directory)) if world.is_root else None)[0]
    findings = [
        Finding("ok", f"{world.size} rank(s) from {launcher(os.environ) or 'no launcher'}, controller {world.controller}"),
        *of_ranks(reports, config.run.device),
        *of_cards,
        of_disk(config.run.directory, free),
        _reduce(world, mx.cpu() if broken else device),
    ]
    builds = [name for name in ("gloo", "mpi", "nccl", "cuda") if getattr(hvd, f"{name}_built")()]
    features = [feature.name for feature in mx.runtime.feature_list() if feature.enabled]
    if world.is_root:
        print(f"{place_map(reports)}\n")
        print(f"Horovod is built with: {', '.join(builds)}\nMXNet is built with: {', '.join(features)}")
        print("".join(f"{name}={value} " for name, value in settings.values.items()) + "\n")
        print("\n".join(map(str, findings)), flush=True)
    if parsed.selftest and not any(finding.level == "error" for finding in findings):
        findings += _selftest(world, device, Path(config.run.directory))
    result = {"findings": [asdict(finding) for finding in findings], "ranks": [asdict(one) for one in reports]}
    if world.is_root and free is not None:
        write_json(Path(config.run.directory) / "doctor.json", result)
    errors = [finding.what for finding in findings if finding.level == "error"]
    if errors:
        raise agreed(RunError(f"a run would fail here: {'; '.join(errors)}"))
    return result


def _parser() -> SettingsParser:
    note = "Accepts every option of train, so that it can be run with the same command line."
    shown = ("run.device", "run.directory", "world")
    parser = SettingsParser("doctor", Config, "[--selftest]", shown=shown, description=__doc__, epilog=note)
    text = "also train small networks and VGG-16 on every rank and compare; takes minutes; docs/gpu.md lists the checks"
    parser.add_argument("--selftest", action="store_true", help=text)
    return parser


def _selftest(world: World, device: mx.Context, directory: Path) -> list[Finding]:
    from vggdist.selftest.selftest import FILES, selftest

    found = selftest(world, device, directory)
    if world.is_root:
        print("\n".join(map(str, found)), f"{directory / FILES[0]} and {FILES[1]} have the details", sep="\n", flush=True)
    return found


def _examine(world: World, wanted: str) -> tuple[mx.Context, RankReport]:
    """This rank's device, and its report."""
    import mxnet as mx

    from vggdist.collectives.world import choose_device, versions
    from vggdist.environment import gpus

    refusal = None
    try:
        device = choose_device(wanted, world.local_rank)
    except RequestError as error:
        device, refusal = mx.cpu(), str(error)
    if wanted == "auto" and device == mx.cpu() and (visible := mx.context.num_gpus()):
        refusal = gpus.refusal(world.local_rank % visible)
    gpu = gpus.describe(device.device_id) if device.device_type == "gpu" else None
    towards_root = interface_towards(world.gather(socket.gethostname())[0])
    # Gloo's connections are open already. MPI opens its own on demand, through the interface towards the other hosts.
    interface = ", ".join(world.interfaces()) if world.controller == "Gloo" else towards_root
    world.barrier()
    clock = time.time()
    return device, RankReport(
        rank=world.rank,
        host=slurm.job(os.environ) and os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        local_rank=world.local_rank,
        device=str(device),
        gpu="{} {}.{}".format(gpu.name, *gpu.capability) if gpu else None,
        refusal=refusal,
        cores=sorted(os.sched_getaffinity(0)),
        threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
        interface=interface if world.size > 1 else None,
        clock=clock,
        shm_free=shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else 0,
        versions=versions(),
    )


def _free(directory: Path) -> int | None:
    """Free bytes on the disk of a folder, which need not exist; None if it cannot be written."""
    existing = directory.resolve()
    try:
        while not existing.exists():
            existing = existing.parent
    except OSError:  # a folder that may not be entered, or a name that is too long
        return None
    return shutil.disk_usage(existing).free if existing.is_dir() and os.access(existing, os.W_OK) else None


def _reduce(world: World, device: mx.Context) -> Finding:
    """Check and time a sum over the ranks as in a step; reports the speed of the slowest rank."""
    import mxnet as mx
    import numpy as np

    if world.size == 1:
        return of_allreduce(True, None)
    right, seconds = True, []
    for probe in range(_PROBES):
        array = mx.nd.full((_PROBE_BYTES // 4,), world.rank + 1, ctx=device)
        array.wait_to_read()
        world.barrier()
        started = time.perf_counter()
        world.reduce([array], f"doctor.{probe}")
        right &= bool(np.all(array.asnumpy() == world.size * (world.size + 1) / 2))
        seconds.append(time.perf_counter() - started)
    ranks = world.gather([right, min(seconds[1:])])  # the first one opens the connections
    return of_allreduce(all(correct for correct, _ in ranks), _PROBE_BYTES / max(best for _, best in ranks) / 1e9)


if __name__ == "__main__":
    sys.exit(main())
