"""vggdist and other programs with the same network, data and batch: ``.venv/bin/python benchmarks/run.py --repeats 5``.

Images are synthetic, cropped and mirrored; the optimizer is SGD with momentum. Two ranks share this machine's cores
(plain-mxnet: one process). The networks:

- *vgg11-32*: VGG-11 with batch normalisation and no hidden layers, 32-pixel images, 128 a rank.
- *vgg16-224*: VGG-16 with both hidden layers, 224-pixel images, 16 a rank.

A PROGRAM is a name or a group:

- *frameworks*: vggdist by each launcher, PyTorch DDP, Horovod's example and plain MXNet, in float32. Horovod's example and
  plain MXNet run unchanged, and with an equal part of the cores for each process (``-threads``), which their users have to set
  themselves: MXNet's default is a thread for every two cores. Both train *vgg11-32* only.
- *precisions*: vggdist and PyTorch DDP in float32 and bfloat16; PyTorch eager with contiguous memory, eager with channels
  last, and compiled with channels last. The rows ``limit-...`` are the images per second of a training whose convolutions and
  fully connected layers run at the rate of a matrix product, measured in the same turns.
  ``benchmarks/run.py precisions`` and ``benchmarks/run.py --network vgg16-224 precisions`` make the tables.

The other programs are in ``peers/``. PyTorch has a separate environment, see ``peers/requirements.txt``. The programs take
turns, in alternating order. Images per second are those of the whole machine, without the warm-up. A column ``X / it`` has the
speed of X as a multiple of the row's; in the row of a limit, this is the share of the limit. Exit code 1: a program failed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import AUGMENTATION, VGG11, Program, ProgramFailed, Workload, in_words, machine, ours, take_turns

from vggdist.benchmarking.series import Series
from vggdist.models.layers import Layer

HERE = Path(__file__).resolve().parent
PYTORCH = HERE.parent / ".venv-peers" / "bin" / "python"
RANKS = 2
GLOO, MPI, TORCHRUN = "horovodrun --gloo -np", "horovodrun -np", "-m torch.distributed.run --nproc-per-node"
IMAGES = ("--data.name", "synthetic", "--data.image_size", "224", "--data.synthetic_samples", "256", *AUGMENTATION)
BATCH = ("--train.batch_size", "16", "--evaluation.batch_size", "16")
RATE = ("--optimizer.learning_rate", "0.001")  # the loss of a larger one does not stay finite
VGG16 = Workload(("--model.name", "vgg16", "--model.hidden", "[4096,4096]", *RATE, *IMAGES, *BATCH), warmup=2, steps=4)
NETWORKS = {"vgg11-32": VGG11, "vgg16-224": VGG16}
SUFFIXES = {"float32": "", "bfloat16": "-bfloat16"}
COMPARED = ("ours-gloo", "pytorch-ddp-contiguous", "pytorch-ddp", "pytorch-ddp-compiled")
GROUPS = {
    "frameworks": (
        *("ours-gloo", "ours-mpi", "ours-two-alone", "pytorch-ddp", "pytorch-ddp-compiled"),
        *("plain-mxnet", "plain-mxnet-threads"),
        *(f"horovod-example-{way}" for way in ("gloo", "mpi", "gloo-threads", "mpi-threads")),
    ),
    "precisions": tuple(
        name
        for precision, suffix in SUFFIXES.items()
        for name in (*(f"{one}{suffix}" for one in COMPARED), f"limit-{precision}")
    ),
}


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    options, chosen = arguments()
    flops = training_flops(NETWORKS[options.network].layers)
    found, parts = machine(), versions(options.pytorch)
    try:
        speeds = take_turns(chosen, options.repeats)
    except ProgramFailed as failure:
        sys.exit(str(failure))
    print(f"{in_words(found)}\n{in_words(parts)}")
    print(f"{options.network}, {options.ranks} rank(s), n = {options.repeats}\n{table(speeds)}")
    for name, taken in speeds.items():
        if name.startswith("limit"):
            rate = Series([speed * flops / 1e9 for speed in taken.values])
            print(f"{name}: {rate} GFLOP/s, {flops / 1e9:.4g} GFLOP for an image")
    if options.json:
        setup = {"network": options.network, "ranks": options.ranks, "training_flops_per_image": flops}
        figures = {name: taken.as_json() for name, taken in speeds.items()}
        report = {"machine": found, "versions": parts, **setup, "images_per_s": figures}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def arguments() -> tuple[argparse.Namespace, dict[str, Program]]:
    """Parse the command line; returns it with the programs to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help="a name or a group (default: frameworks)")
    parser.add_argument("--network", choices=NETWORKS, default="vgg11-32", help="default: %(default)s")
    parser.add_argument("--ranks", type=int, default=RANKS, help="each has an equal part of the cores (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    lengths = "; ".join(f"{one.steps} after {one.warmup} of warm-up for {name}" for name, one in NETWORKS.items())
    parser.add_argument("--steps", type=int, help=f"measured steps (default: {lengths})")
    parser.add_argument("--pytorch", type=Path, default=PYTORCH, help="Python that has PyTorch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    workload = NETWORKS[options.network]
    known = programs(replace(workload, steps=options.steps or workload.steps), options.ranks, options.pytorch.absolute())
    if unknown := set(options.programs) - {*known, *GROUPS}:
        there = f"there are {', '.join((*GROUPS, *known))}"
        parser.error(f"there is no {', '.join(sorted(unknown))} for {options.network}; {there}")
    wanted = {name for given in options.programs or ["frameworks"] for name in GROUPS.get(given, (given,))}
    chosen = {name: program for name, program in known.items() if name in wanted}
    if any(name.startswith(("pytorch", "limit")) for name in chosen) and not options.pytorch.exists():
        advice = f"{HERE}/peers/requirements.txt shows how to install it; or name the programs to measure"
        parser.error(f"there is no PyTorch at {options.pytorch}: {advice}")
    return options, chosen


def programs(workload: Workload, ranks: int, pytorch: Path) -> dict[str, Program]:
    """The programs by name; those of vggdist start with ``ours``.

    Args:
        pytorch: Python interpreter with PyTorch.
    """
    found: dict[str, Program] = {}
    for precision, suffix in SUFFIXES.items():
        mine = partial(ours, flags=f"--train.precision {precision}", workload=workload)
        flags = (*pytorch_flags(workload), "--precision", precision)
        torch = partial(peer, workload, f"{pytorch} {TORCHRUN} {ranks}", "pytorch_ddp.py", *flags)
        ways = {
            "ours-gloo": mine(f"{GLOO} {ranks}"),
            "ours-mpi": mine(f"{MPI} {ranks}"),
            "ours-two-alone": mine(environment=threads(2), copies=2),
            "pytorch-ddp-contiguous": torch("--layout", "contiguous"),
            "pytorch-ddp": torch(),
            "pytorch-ddp-compiled": torch("--compile"),
        }
        found |= {f"{name}{suffix}": program for name, program in ways.items()}
        product = (str(HERE / "peers" / "matrix_product.py"), "--precision", precision)
        command = (str(pytorch), *TORCHRUN.split(), str(ranks), *product)
        found[f"limit-{precision}"] = Program(command, partial(limit, layers=workload.layers))
    return found | (vgg11_programs(workload, ranks) if workload.flags == VGG11.flags else {})


def vgg11_programs(workload: Workload, ranks: int) -> dict[str, Program]:
    """The programs that train only VGG-11 with 32-pixel images."""
    alone = partial(peer, workload, "python", "plain_mxnet.py")
    found = {"plain-mxnet": alone(), "plain-mxnet-threads": alone(environment=threads(1))}
    for suffix, environment in {"": "", "-threads": threads(ranks)}.items():
        for way, launcher in {"gloo": GLOO, "mpi": MPI}.items():
            program = peer(workload, f"{launcher} {ranks} python", "horovod_example.py", environment=environment)
            found[f"horovod-example-{way}{suffix}"] = program
    return found


def peer(workload: Workload, before: str, script: str, *flags: str, environment: str = "") -> Program:
    """A program of ``peers/``.

    Args:
        before: the part of the command before the script.
    """
    length = ("--warmup", str(workload.warmup), "--steps", str(workload.steps))
    speed = partial(printed_speed, layers=workload.layers)
    return Program((*before.split(), str(HERE / "peers" / script), *length, *flags), speed, environment)


def pytorch_flags(workload: Workload) -> tuple[str, ...]:
    """Flags of ``pytorch_ddp.py`` for the network, images and batch of a workload."""
    model, data, train = workload.config.model, workload.config.data, workload.config.train
    values = {"network": model.name, "image-size": data.image_size, "samples": data.synthetic_samples}
    return tuple(
        str(word) for name, value in (values | {"batch-size": train.batch_size}).items() for word in (f"--{name}", value)
    )


def threads(processes: int) -> str:
    """The variable that gives each process an equal part of the cores."""
    return f"OMP_NUM_THREADS={max(1, int(machine()['cores']) // processes)}"


def training_flops(layers: Sequence[Layer]) -> int:
    """Operations of a training step for one image; a multiply-add is 2.

    The backward pass computes the gradients of a layer's weights and of its input, each with the operations of the forward
    pass. The first layer's input needs no gradient.
    """
    return 3 * sum(layer.flops for layer in layers) - layers[0].flops


def limit(folder: Path, layers: Sequence[Layer]) -> float:
    """Images per second of a training that does its operations at the rate that ``matrix_product.py`` prints."""
    return float(json_line(folder, "flops_per_s")["flops_per_s"]) / training_flops(layers)


def printed_speed(folder: Path, layers: Sequence[Layer]) -> float:
    """Images per second in the line of JSON that a program of ``peers/`` prints; see :func:`printed`."""
    return float(printed(folder, layers)["images_per_s"])


def printed(folder: Path, layers: Sequence[Layer]) -> dict[str, Any]:
    """The line of JSON that a program of ``peers/`` prints; ``ValueError`` for another network.

    Args:
        layers: of the network that the program has to train.
    """
    line = json_line(folder, "images_per_s")
    expected = sum(layer.parameters for layer in layers)
    if line["parameters"] != expected:
        raise ValueError(f"it trained {line['parameters']} parameters instead of {expected}")
    return line


def json_line(folder: Path, key: str) -> dict[str, Any]:
    """The line of JSON with this key first in a program's output; ``ValueError`` if there is none."""
    output = (folder / "output.txt").read_text()
    line: dict[str, Any]
    line, _ = json.JSONDecoder().raw_decode(output, output.index(f'{{"{key}"'))  # mpirun adds tags around it
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
