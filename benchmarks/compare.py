"""Speed of launchers and settings: ``.venv/bin/python benchmarks/compare.py --repeats 5 gloo gloo-bfloat16``.

Each variant is a short training by the command that a user would type. The variants take turns, so that noise of the machine
affects all of them. The table has ratios to the first variant, turn by turn.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from measure import Program, ProgramFailed, in_words, machine, ours, take_turns

GLOO, MPI = "horovodrun --gloo -np 2", "horovodrun -np 2"
# A training without the effect of vggdist/environment/scheduling.py.
IMPATIENT = "import os, runpy; os.SCHED_BATCH = os.SCHED_OTHER; runpy.run_module('vggdist.train', run_name='__main__')"


def impatient(program: Program) -> Program:
    """The same training with the default scheduling of threads."""
    at = program.command.index("-m")
    return replace(program, command=(*program.command[:at], "-c", IMPATIENT, *program.command[at + 2 :]))


WAYS = {
    "alone": ours(environment="OMP_NUM_THREADS=1"),
    "two-alone": ours(environment="OMP_NUM_THREADS=1", copies=2),
    "gloo": ours(GLOO),
    "mpi": ours(MPI),
    **{f"gloo-bucket-{mib}": ours(GLOO, f"--train.bucket_cap_mb {mib}") for mib in (0, 1, 25)},
    **{f"mpi-bucket-{mib}": ours(MPI, f"--train.bucket_cap_mb {mib}") for mib in (0, 1, 25)},
    "gloo-unbound": ours(GLOO, "--world.bind false"),
    "mpi-unbound": ours(MPI, "--world.bind false"),
    "gloo-unset": ours(GLOO, "--world.preset none", environment="OMP_NUM_THREADS=1"),
    "mpi-unset": ours(MPI, "--world.preset none", environment="OMP_NUM_THREADS=1"),
    **{f"gloo-fusion-{mib}": ours(GLOO, environment=f"HOROVOD_FUSION_THRESHOLD={mib * 2**20}") for mib in (0, 16, 128)},
    **{f"mpi-fusion-{mib}": ours(MPI, environment=f"HOROVOD_FUSION_THRESHOLD={mib * 2**20}") for mib in (0, 16, 128)},
    "gloo-bfloat16": ours(GLOO, "--train.precision bfloat16"),
    "mpi-bfloat16": ours(MPI, "--train.precision bfloat16"),
    "gloo-fp16": ours(GLOO, "--train.compression fp16"),
    **{f"gloo-cycle-{ms}": ours(GLOO, environment=f"HOROVOD_CYCLE_TIME={ms}") for ms in (2, 5, 10, 20)},
    **{f"mpi-cycle-{ms}": ours(MPI, environment=f"HOROVOD_CYCLE_TIME={ms}") for ms in (5, 20)},
    "gloo-impatient": impatient(ours(GLOO)),
    "mpi-spinning": ours(MPI, environment="OMPI_MCA_mpi_yield_when_idle=0"),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"Variants: {', '.join(WAYS)}.")
    parser.add_argument("ways", nargs="+", choices=WAYS, metavar="VARIANT", help="the others are compared with the first")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options = parser.parse_args()
    found = machine()
    try:
        speeds = take_turns({name: WAYS[name] for name in options.ways}, options.repeats)
    except ProgramFailed as failure:
        sys.exit(str(failure))
    print(f"{in_words(found)}, n = {options.repeats}")
    print(f"{'variant':<18} {'images/s':<26} ratio")
    for name, taken in speeds.items():
        print(f"{name:<18} {taken!s:<26} {taken.over(speeds[options.ways[0]])}")
    if options.json:
        figures = {name: taken.as_json() for name, taken in speeds.items()}
        options.json.write_text(json.dumps({"machine": found, "images_per_s": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
