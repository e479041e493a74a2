"""The environment that MXNet, OpenMP, Open MPI and Horovod read when they are imported or started, and this rank's cores."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from vggdist.config.load import requested
from vggdist.world import gpus, slurm
from vggdist.world.binding import bind, bind_near
from vggdist.world.cores import find_cores, own_cores
from vggdist.world.findings import ranges
from vggdist.world.interfaces import interface_towards
from vggdist.world.presets import NAMES, PRESETS, RECORDED, Place
from vggdist.world.topology import from_environment


@dataclass(frozen=True)
class Settings:
    """What is in effect.

    Attributes:
        preset: the one that was taken: ``cpu``, ``gpu`` or ``none``.
        values: of all variables that a preset can set, also where the user has set them, and with ``gpu`` of those that it
            leaves alone.
        cores: that this rank may use, as ``"0-3,8"``.
    """

    preset: str
    values: dict[str, str]
    cores: str

    def as_json(self, gather: Callable[[str], list[str]]) -> dict[str, Any]:
        """For ``result.json``, with the cores of each rank. Every rank must call this.

        Args:
            gather: :meth:`~vggdist.world.process.World.gather`.
        """
        return {"preset": self.preset, **self.values, "cores": gather(self.cores)}


def apply(arguments: Sequence[str] = (), environment: MutableMapping[str, str] = os.environ) -> Settings:
    """Set what the user has not set, and bind this rank to its cores; must run before ``import mxnet``.

    Ranks that SLURM starts without MPI find their place for Horovod here, too.

    Args:
        arguments: of the command. A wrong value in them has the effect of ``none`` here; it is refused when they are read.
    """
    environment.update(slurm.rendezvous(environment, interface_towards))
    asked = requested(arguments, "world.preset", "world.bind", "run.device", "run.deterministic")
    topology, cores = from_environment(environment), find_cores(environment)
    deterministic, elastic = not _is_false(asked["run.deterministic"]), "HOROVOD_ELASTIC" in environment
    preset = asked["world.preset"]
    if preset == "auto":
        preset = "gpu" if asked["run.device"] != "cpu" and gpus.usable() else "cpu"
    chosen = PRESETS.get(preset, PRESETS["none"])
    place = Place(topology, own_cores(cores, topology.local_size), deterministic, elastic)
    for name, value in chosen(place).items():
        environment.setdefault(name, value)
    if not _is_false(asked["world.bind"]):
        if preset == "cpu":
            bind(cores, topology, environment)
        elif preset == "gpu" and (visible := gpus.addresses()):
            bind_near(visible[topology.local_rank % len(visible)], cores, environment)
    values = {name: environment[name] for name in NAMES if name in environment}
    values |= {name: environment.get(name, "unset") for name in RECORDED if preset == "gpu" or name in environment}
    return Settings(preset, values, ranges(sorted(os.sched_getaffinity(0))))


def _is_false(value: object) -> bool:
    """Whether a value of a file or flag says no."""
    return str(value).lower() == "false"
