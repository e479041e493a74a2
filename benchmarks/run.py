"""vggdist and other programs with the same network, data and batch: ``.venv/bin/python benchmarks/run.py --repeats 5``.

VGG-11 with batch normalisation, 32-pixel images cropped and mirrored, 128 a rank, SGD with momentum, float32, two ranks on
this machine's cores (plain-mxnet: one process with all cores). The other programs are in ``peers/``. PyTorch has a separate
environment, see ``peers/requirements.txt``. The programs take turns, in alternating order. Images per second are those of the
whole machine, without the warm-up. Horovod's example runs unchanged, and with an equal part of the cores for each rank
(``-threads``), which its users have to set themselves. Exit code 1: a program failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import WARMUP, Program, ProgramFailed, in_words, machine, ours, take_turns

from vggdist.benchmarking.series import Series
from vggdist.config.schema import ModelConfig
from vggdist.models.layers import Layer, describe

HERE = Path(__file__).resolve().parent
PYTORCH = HERE.parent / ".venv-peers" / "bin" / "python"
RANKS = 2
GLOO, MPI = f"horovodrun --gloo -np {RANKS}", f"horovodrun -np {RANKS}"
VGG11 = tuple(describe(ModelConfig(name="vgg11", batch_norm=True, hidden=()), channels=3, image_size=32, num_classes=10))
TORCHRUN = f"-m torch.distributed.run --nproc-per-node {RANKS}"


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"default: all of {', '.join(programs(16, PYTORCH))}")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="measured steps, after a warm-up of 8 (default: %(default)s)")
    parser.add_argument("--pytorch", type=Path, default=PYTORCH, help="Python that has PyTorch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    known = programs(options.steps, options.pytorch.absolute())
    if unknown := set(options.programs) - set(known):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = {name: program for name, program in known.items() if name in (options.programs or known)}
    if any(name.startswith("pytorch") for name in chosen) and not options.pytorch.exists():
        advice = f"{HERE}/peers/requirements.txt shows how to install it; or name the programs to measure"
        parser.error(f"there is no PyTorch at {options.pytorch}: {advice}")
    found, parts = machine(), versions(options.pytorch)
    try:
        speeds = take_turns(chosen, options.repeats)
    except ProgramFailed as failure:
        sys.exit(str(failure))
    print(f"{in_words(found)}\n{in_words(parts)}, n = {options.repeats}\n{table(speeds)}")
    if options.json:
        figures = {name: taken.as_json() for name, taken in speeds.items()}
        options.json.write_text(json.dumps({"machine": found, "versions": parts, "images_per_s": figures}, indent=2) + "\n")


def programs(steps: int, pytorch: Path) -> dict[str, Program]:
    """The programs by name; those of vggdist start with ``ours``.

    Args:
        steps: measured steps.
        pytorch: Python interpreter with PyTorch.
    """
    threads = f"OMP_NUM_THREADS={max(1, int(machine()['cores']) // RANKS)}"

    def peer(before: str, script: str, *flags: str, environment: str = "") -> Program:
        length = ("--warmup", str(WARMUP), "--steps", str(steps))
        return Program((*before.split(), str(HERE / "peers" / script), *length, *flags), printed_speed, environment)

    return {
        "ours-gloo": ours(GLOO, steps=steps),
        "ours-mpi": ours(MPI, steps=steps),
        "ours-two-alone": ours(environment=threads, copies=RANKS, steps=steps),
        "pytorch-ddp": peer(f"{pytorch} {TORCHRUN}", "pytorch_ddp.py"),
        "pytorch-ddp-compiled": peer(f"{pytorch} {TORCHRUN}", "pytorch_ddp.py", "--compile"),
        "plain-mxnet": peer("python", "plain_mxnet.py"),
        "horovod-example-gloo": peer(f"{GLOO} python", "horovod_example.py"),
        "horovod-example-mpi": peer(f"{MPI} python", "horovod_example.py"),
        "horovod-example-gloo-threads": peer(f"{GLOO} python", "horovod_example.py", environment=threads),
        "horovod-example-mpi-threads": peer(f"{MPI} python", "horovod_example.py", environment=threads),
    }


def printed_speed(folder: Path, layers: Sequence[Layer] = VGG11) -> float:
    """Images per second in the line of JSON that a program of ``peers/`` prints; see :func:`printed`."""
    return float(printed(folder, layers)["images_per_s"])


def printed(folder: Path, layers: Sequence[Layer]) -> dict[str, Any]:
    """The line of JSON that a program of ``peers/`` prints; ``ValueError`` for another network.

    Args:
        layers: of the network that the program has to train.
    """
    output = (folder / "output.txt").read_text()
    line: dict[str, Any]
    line, _ = json.JSONDecoder().raw_decode(output, output.index('{"images_per_s"'))  # mpirun adds tags around it
    expected = sum(layer.parameters for layer in layers)
    if line["parameters"] != expected:
        raise ValueError(f"it trained {line['parameters']} parameters instead of {expected}")
    return line


def table(speeds: Mapping[str, Series]) -> str:
    """A line for each program: images per second, and the speed of each of ours as a multiple in the same turn."""
    mine = {name: taken for name, taken in speeds.items() if name.startswith("ours")}
    width = max(map(len, speeds))
    head = f"{'program':<{width}} {'images/s':<26}" + "".join(f" {f'{name} / it':<26}" for name in mine)
    lines = [
        f"{name:<{width}} {taken!s:<26}" + "".join(f" {own.over(taken)!s:<26}" for own in mine.values())
        for name, taken in speeds.items()
    ]
    return "\n".join(line.rstrip() for line in (head, *lines))


def versions(pytorch: Path) -> dict[str, str]:
    """Versions of the compared software; PyTorch and Open MPI only if they are installed."""
    asked = {"torch": [str(pytorch), "-c", "import torch; print(torch.__version__)"], "mpirun": ["mpirun", "--version"]}
    found = {name: version(name) for name in ("mxnet", "horovod", "numpy")}
    for name, command in asked.items():
        try:
            found[name] = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split("\n")[0]
        except (OSError, subprocess.CalledProcessError):
            continue
    return found


if __name__ == "__main__":
    main()
