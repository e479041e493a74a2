"""Ways to train, side by side: ``.venv/bin/python benchmarks/compare.py --repeats 5 default bfloat16``.

Each way is a short training of VGG-11 with batch normalisation on synthetic 32-pixel images, 128 a rank, by the command that a
user would type. The ways take turns, so that a noisy machine is noisy for all of them, and are told as ratios to the first:
images per second between the reports, the first report (graphs are built, buffers allocated) left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

MODEL = ("--model.name", "vgg11", "--model.batch_norm", "true", "--model.hidden", "[]")
DATA = ("--data.name", "synthetic", "--data.image_size", "32", "--data.synthetic_samples", "8192")
LENGTH = ("--train.batch_size", "128", "--train.steps", "24", "--run.log_every", "8", "--evaluation.every_epochs", "0")
DEADLINE_S = 600


@dataclass(frozen=True)
class Way:
    """One way to train: the launcher's words before ``python``, train's flags, the environment, and how often at once."""

    launcher: str
    flags: str = ""
    environment: str = ""
    copies: int = 1


GLOO, MPI = "horovodrun --gloo -np 2", "horovodrun -np 2"
WAYS = {
    "alone": Way("", environment="OMP_NUM_THREADS=1"),
    "two-alone": Way("", environment="OMP_NUM_THREADS=1", copies=2),
    "gloo": Way(GLOO),
    "mpi": Way(MPI),
    "gloo-ungrouped": Way(GLOO, "--run.deterministic false"),
    "mpi-ungrouped": Way(MPI, "--run.deterministic false"),
    "gloo-unbound": Way(GLOO, "--world.bind false"),
    "mpi-unbound": Way(MPI, "--world.bind false"),
    "gloo-unset": Way(GLOO, "--world.preset none", environment="OMP_NUM_THREADS=1"),
    "mpi-unset": Way(MPI, "--world.preset none", environment="OMP_NUM_THREADS=1"),
    **{f"gloo-fusion-{mib}": Way(GLOO, environment=f"HOROVOD_FUSION_THRESHOLD={mib * 2**20}") for mib in (0, 16)},
    **{f"mpi-fusion-{mib}": Way(MPI, environment=f"HOROVOD_FUSION_THRESHOLD={mib * 2**20}") for mib in (0, 16)},
    "gloo-bfloat16": Way(GLOO, "--train.precision bfloat16"),
    "mpi-bfloat16": Way(MPI, "--train.precision bfloat16"),
    "gloo-fp16": Way(GLOO, "--train.compression fp16"),
    **{f"gloo-cycle-{ms}": Way(GLOO, environment=f"HOROVOD_CYCLE_TIME={ms}") for ms in (1, 2, 5, 10, 20)},
    **{f"mpi-cycle-{ms}": Way(MPI, environment=f"HOROVOD_CYCLE_TIME={ms}") for ms in (1, 5, 20)},
    "mpi-spinning": Way(MPI, environment="OMPI_MCA_mpi_yield_when_idle=0"),
}


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, epilog=f"Ways: {', '.join(WAYS)}.")
    asked.add_argument("ways", nargs="+", choices=WAYS, metavar="WAY", help="the others are compared with the first")
    asked.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    asked.add_argument("--json", type=Path, help="file for all figures")
    options = asked.parse_args()
    speeds: dict[str, list[float]] = {name: [] for name in options.ways}
    for turn in range(options.repeats):
        for name in options.ways:
            speeds[name].append(images_per_second(WAYS[name]))
            print(f"turn {turn + 1}: {name} {speeds[name][-1]:.1f} images/s", file=sys.stderr, flush=True)
    print(f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, n = {options.repeats}")
    print(f"{'way':<18} {'images/s':>9} {'ratio':>7}  spread of the ratio")
    first = speeds[options.ways[0]]
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, first)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{name:<18} {statistics.median(values):9.1f} {statistics.median(ratios):7.3f}  {spread}")
    if options.json:
        options.json.write_text(json.dumps(speeds, indent=2))


def images_per_second(way: Way) -> float:
    """Over all ranks of all copies, between the first report and the last."""
    python = [sys.executable, "-m", "vggdist.train", *MODEL, *DATA, *LENGTH, *shlex.split(way.flags)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **dict(pair.split("=", 1) for pair in way.environment.split())}
    with tempfile.TemporaryDirectory(prefix="compare-") as folder:
        folders = [Path(folder) / str(copy) for copy in range(way.copies)]
        for place in folders:
            place.mkdir()
        command = [*shlex.split(way.launcher), *python]
        jobs = [subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.DEVNULL) for place in folders]
        for job in jobs:
            if job.wait(timeout=DEADLINE_S):
                raise RuntimeError(f"{shlex.join(command)} ended with {job.returncode}")
        return sum(map(reported, folders))


def reported(folder: Path) -> float:
    """Images per second that a run reports, without its first report."""
    lines = map(json.loads, (folder / "runs" / "quickstart" / "metrics.jsonl").read_text().splitlines())
    found = [line["throughput/images_per_s"] for line in lines if "throughput/images_per_s" in line]
    return statistics.harmonic_mean(found[1:])


if __name__ == "__main__":
    main()
