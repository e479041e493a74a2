"""``vggdist COMMAND ...``: the same as ``python -m vggdist.COMMAND ...``."""

from __future__ import annotations

import importlib
import sys

from vggdist.processes.signals import ignore_stop_signals

COMMANDS = {
    "train": "train a network, or continue a run",
    "evaluate": "measure a trained network: every metric, each class, each image",
    "predict": "classify images",
    "export": "write a trained network for ONNX runtimes, or for MXNet without this package",
    "runs": "list the runs in a folder with their results, or compare two",
    "supervise": "start a training, and restart it from its newest checkpoint when it dies",
    "doctor": "check whether a run would work: devices, cores, disk, network",
    "rendezvous": "connect the ranks that SLURM's srun starts, without MPI and ssh",
    "prepare": "convert images to record files or back, or verify either",
    "summary": "print the network's blocks: shapes, parameters, FLOPs, bytes to reduce",
    "bench": "measure this machine: the step, the training around it, the input, the reduction, scaling; record a profile",
    "plan": "estimate a job: steps, memory, predicted scaling; without GPU, data or MXNet",
}


def main() -> int:
    """Run a command; returns its exit code."""
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if command in COMMANDS:
        code = int(importlib.import_module(f"vggdist.{command}").main(arguments))
        if command == "train":
            ignore_stop_signals()
        return code
    lines = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    print(f"usage: vggdist COMMAND [--config FILE] [--section.key value ...]\n\n{lines}")
    return 0 if command in ("-h", "--help") else 2


if __name__ == "__main__":
    sys.exit(main())
