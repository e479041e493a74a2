"""The self test: runs every check on every rank and writes a JSON and a text report."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mxnet as mx

from vggdist.collectives.world import World, versions
from vggdist.diagnosis.findings import Finding
from vggdist.environment import gpus
from vggdist.selftest.bench import Scale
from vggdist.selftest.claims import Bench, Claim, claims
from vggdist.selftest.outcome import Measured, Outcome, as_json, as_text

FILES = ("selftest.json", "selftest.txt")


def selftest(world: World, device: mx.Context, directory: Path, scale: Scale | None = None) -> list[Finding]:
    """Run all checks; rank 0 writes :data:`FILES` after each, so that the results before a crash are kept.

    Every rank must call this. It takes minutes, and the memory of a training of VGG-16 on 64 images.

    Args:
        device: of this rank.
        directory: of the files, created if it does not exist.
        scale: of the checks; None: the default of the device.

    Returns:
        One finding for each check, the same on all ranks.

    Raises:
        RequestError, RunError, OSError: on every rank, if the training of a check could not be set up.
    """
    bench = Bench(world, device, scale or Scale.of(device))
    environment, outcomes = _environment(world, device), list[Outcome]()
    with _quiet():
        for claim in claims(bench):
            outcomes.append(_measure(claim, bench))
            _write(world, directory, environment, outcomes, complete=False)
    _write(world, directory, environment, outcomes, complete=True)
    return [one.finding() for one in outcomes]


def _measure(claim: Claim, bench: Bench) -> Outcome:
    started = time.perf_counter()
    try:
        measured = claim.measure(bench)
    except mx.MXNetError as error:
        measured = Measured(float("nan"), str(error).strip().splitlines()[-1])
    ranks = [Measured(**one) for one in bench.world.gather(asdict(measured))]
    return Outcome.of(claim.text, claim.unit, claim.limit, ranks, round(time.perf_counter() - started, 2))


def _environment(world: World, device: mx.Context) -> dict[str, Any]:
    """Hardware, versions and settings of the measurements."""
    import horovod.mxnet as hvd

    gpu = gpus.describe(device.device_id) if device.device_type == "gpu" else None
    name = "{} {}.{}".format(gpu.name, *gpu.capability) if gpu else "CPU"
    driver, compiler = gpus.driver_cuda(), gpus.compiler_cuda()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "ranks": world.size,
        "devices": [f"{host} {device}" for host, device in world.gather([socket.gethostname(), f"{device} {name}"])],
        "controller": world.controller,
        "versions": versions(),
        "nccl": int(hvd.nccl_built()),
        "driver_cuda": driver and "{}.{}".format(*driver),
        "nvrtc_cuda": compiler and "{}.{}".format(*compiler),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_PREFIXES)},
    }


_PREFIXES = ("MXNET_", "HOROVOD_FUSION", "HOROVOD_CYCLE", "NCCL_", "NVIDIA_TF32", "OMP_", "CUDA_VISIBLE")


def _write(world: World, directory: Path, environment: dict[str, Any], outcomes: Sequence[Outcome], complete: bool) -> None:
    def write() -> None:
        directory.mkdir(parents=True, exist_ok=True)
        json_file, text_file = (directory / name for name in FILES)
        json_file.write_text(json.dumps(as_json(environment, outcomes, complete), indent=2) + "\n")
        text_file.write_text(as_text(environment, outcomes, complete))

    world.together(write, acts=world.is_root)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the log of the checks' trainings, and MXNet's warning that names of constants are registered already."""
    logger = logging.getLogger("vggdist")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="mxnet.registry")
            yield
    finally:
        logger.setLevel(level)
