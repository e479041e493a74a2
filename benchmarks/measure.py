"""For the other benchmarks: trainings as separate programs, with a deadline and a speed."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from vggdist.benchmarking.series import Series, in_turn
from vggdist.config.load import load
from vggdist.config.schema import Config
from vggdist.data.data_shape import data_shape
from vggdist.models.layers import Layer, describe
from vggdist.processes.signals import deferred_signals

MODEL = ("--model.name", "vgg11", "--model.batch_norm", "true", "--model.hidden", "[]")
DATA = ("--data.name", "synthetic", "--data.image_size", "32", "--data.synthetic_samples", "8192")
AUGMENTATION = ("--augment.pad_crop", "4", "--augment.flip", "true")
BATCH_SIZE, WARMUP = 128, 8
TUNING = ("OMP_", "KMP_", "MXNET_", "OMPI_", "HOROVOD_")
DEADLINE_S = 600


@dataclass(frozen=True)
class Workload:
    """What is trained in a measurement, and for how long.

    Attributes:
        flags: of ``vggdist.train``: network, data, augmentation and batch size of a rank.
        warmup: steps before those that count, in which graphs are built and buffers allocated.
        steps: steps that count.
    """

    flags: tuple[str, ...]
    warmup: int = WARMUP
    steps: int = 16

    @property
    def config(self) -> Config:
        """The configuration of the training."""
        return load("train", self.flags)

    @property
    def layers(self) -> list[Layer]:
        """The layers of the network."""
        shape = vars(data_shape(self.config.data))
        return describe(self.config.model, **shape)


VGG11 = Workload((*MODEL, *DATA, *AUGMENTATION, "--train.batch_size", str(BATCH_SIZE)))
"""VGG-11 with batch normalisation on synthetic 32-pixel images, 128 a rank."""


class ProgramFailed(Exception):
    """A program ended with an error, did not end, or printed no speed; the message has its output."""


@dataclass(frozen=True)
class Program:
    """A training as a user would type it.

    Attributes:
        command: program and arguments.
        speed: returns images per second from the folder in which it ran; ``output.txt`` there has its output.
        environment: as in :func:`started`.
        copies: number of independent copies that run at the same time.
    """

    command: tuple[str, ...]
    speed: Callable[[Path], float]
    environment: str = ""
    copies: int = 1


def ours(launcher: str = "", flags: str = "", environment: str = "", copies: int = 1, workload: Workload = VGG11) -> Program:
    """``vggdist.train`` with a workload.

    Args:
        launcher: the part of the command before ``python``.
        flags: further flags of ``vggdist.train``.
    """
    length = ("--train.steps", workload.warmup + workload.steps, "--run.log_every", workload.warmup)
    at_end = ("--evaluation.every_epochs", 0, "--checkpoint.every_epochs", 0)  # not between the steps that count
    settings = map(str, (*workload.flags, *length, *at_end, *shlex.split(flags)))
    return Program((*shlex.split(launcher), sys.executable, "-m", "vggdist.train", *settings), reported, environment, copies)


def reported(folder: Path) -> float:
    """Images per second that a run of vggdist reports, without its first report."""
    (path,) = folder.glob("runs/*/metrics.jsonl")
    lines = map(json.loads, path.read_text().splitlines())
    reports = [(line["step"], line["throughput/images_per_s"]) for line in lines if "throughput/images_per_s" in line]
    steps = [step - earlier for (earlier, _), (step, _) in zip(reports, reports[1:])]
    return statistics.harmonic_mean([speed for _, speed in reports[1:]], weights=steps)


def take_turns(programs: Mapping[str, Program], repeats: int) -> dict[str, Series]:
    """Images per second of each program in each turn; prints them as they are measured. SIGTERM ends them as Ctrl-C does.

    Raises:
        ProgramFailed: the first one ends the measurement.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def measured(name: str) -> float:
        speed = images_per_second(name, programs[name])
        print(f"{name} {speed:.1f} images/s", file=sys.stderr, flush=True)
        return speed

    return in_turn({name: partial(measured, name) for name in programs}, repeats)


def images_per_second(name: str, program: Program, deadline: float = DEADLINE_S) -> float:
    """Run a program once, in a temporary folder; returns the sum over its copies.

    Args:
        deadline: seconds after which the program is killed.

    Raises:
        ProgramFailed: it ended with an error, did not end, or printed no speed.
    """
    with tempfile.TemporaryDirectory(prefix="measure-") as folder, contextlib.ExitStack() as stack:
        places = [Path(folder) / str(copy) for copy in range(program.copies)]
        until = time.monotonic() + deadline
        try:
            jobs = [stack.enter_context(started(program.command, place, program.environment)) for place in places]
            codes = [job.wait(timeout=max(0, until - time.monotonic())) for job in jobs]
            if any(codes):
                raise ProgramFailed(f"{name} ended with {max(codes, key=abs)}:\n{_outputs(places)}")
            return sum(map(program.speed, places))
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{name} was not over after {deadline} s:\n{_outputs(places)}") from None
        except (OSError, ValueError, LookupError) as error:
            raise ProgramFailed(f"{name} printed no speed ({type(error).__name__}: {error}):\n{_outputs(places)}") from None


@contextlib.contextmanager
def started(command: Sequence[str], place: Path, environment: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs in a new folder, with its output in ``output.txt`` there; on exit it is killed if it still runs.

    Variables of OpenMP, MXNet, Open MPI and Horovod that are set in the shell are not passed on.

    Args:
        command: this interpreter's folder is searched first.
        environment: ``NAME=value``, with spaces between.
    """
    place.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    untuned = {name: value for name, value in os.environ.items() if not name.startswith(TUNING)}
    patient = {"HOROVOD_GLOO_TIMEOUT_SECONDS": str(DEADLINE_S)}  # ranks on busy cores start more than 30 s apart
    variables = {**untuned, **patient, "PATH": path, **dict(pair.split("=", 1) for pair in environment.split())}
    with (place / "output.txt").open("w") as output, contextlib.ExitStack() as stack:
        with deferred_signals():
            job = subprocess.Popen(command, cwd=place, env=variables, stdout=output, stderr=subprocess.STDOUT)
            stack.callback(_end, job)
        yield job


def _end(job: subprocess.Popen[bytes]) -> None:
    """Kill a program that is still running, with all its child processes."""
    if job.poll() is None:
        launcher = psutil.Process(job.pid)
        for process in [launcher, *launcher.children(recursive=True)]:
            process.kill()
        job.wait()


def _outputs(places: list[Path]) -> str:
    files = [place / "output.txt" for place in places]
    return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


def machine() -> dict[str, str | int | float]:
    """CPU, cores and system of this machine, and its current load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "load average": round(os.getloadavg()[0], 2),
    }


def in_words(facts: Mapping[str, object]) -> str:
    """``cores 2, load average 0.1``."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())
