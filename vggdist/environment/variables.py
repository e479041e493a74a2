"""Sets the environment variables that MXNet, OpenMP, Open MPI and Horovod read at import, and binds this rank to its cores."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from vggdist.config.errors import RequestError
from vggdist.config.schema import Config, DeviceConfig, WorldConfig
from vggdist.environment import gpus
from vggdist.environment.binding import bind, bind_near
from vggdist.environment.cores import find_cores, format_cpu_list, own_cores
from vggdist.environment.mxnet_import import import_mxnet
from vggdist.environment.network_interfaces import interface_towards
from vggdist.environment.presets import NAMES, PRESETS, RECORDED, TEXTS, RankContext
from vggdist.launcher import slurm
from vggdist.launcher.topology import from_environment


class Request(Protocol):
    """The sections of a command's settings that this module reads."""

    @property
    def run(self) -> DeviceConfig:
        """The device."""

    @property
    def world(self) -> WorldConfig:
        """The preset."""


_DEFAULTS = Config()


@dataclass(frozen=True)
class Settings:
    """The settings in effect.

    Attributes:
        preset: ``cpu``, ``gpu`` or ``none``.
        values: of all variables that a preset can set, including those that the user has set, and with ``gpu`` of
            :data:`~vggdist.environment.presets.RECORDED`.
        cores: of this rank, as ``"0-3,8"``.
    """

    preset: str
    values: dict[str, str]
    cores: str

    def as_json(self, gather: Callable[[str], list[str]]) -> dict[str, Any]:
        """The settings for ``result.json``, with the cores of each rank. Every rank must call this.

        Args:
            gather: :meth:`~vggdist.collectives.world.World.gather`.
        """
        return {"preset": self.preset, **self.values, "cores": gather(self.cores)}


def apply(config: Request = _DEFAULTS, environment: MutableMapping[str, str] = os.environ) -> Settings:
    """Set the variables that the user has not set, bind this rank to its cores, and import MXNet, which reads them.

    For ranks that SLURM starts without MPI this also sets Horovod's rank and size.

    Raises:
        RequestError: a variable that MXNet or OpenMP reads as a number is not a number.
    """
    environment.update(slurm.rendezvous(environment, interface_towards))
    topology, cores = from_environment(environment), find_cores(environment)
    preset = config.world.preset
    if preset == "auto":
        preset = "gpu" if config.run.device != "cpu" and gpus.usable() else "cpu"
    rank = RankContext(
        topology, own_cores(cores, topology.local_size), config.run.deterministic, elastic="HOROVOD_ELASTIC" in environment
    )
    for name, value in PRESETS[preset](rank).items():
        environment.setdefault(name, value)
    _require_numbers(environment)
    if config.world.bind and preset == "cpu":
        bind(cores, topology, environment)
    elif config.world.bind and preset == "gpu" and (visible := gpus.addresses()):
        bind_near(visible[topology.local_rank % len(visible)], cores, environment)
    values = {name: environment[name] for name in NAMES if name in environment}
    values |= {name: environment.get(name, "unset") for name in RECORDED if preset == "gpu" or name in environment}
    import_mxnet()
    return Settings(preset, values, format_cpu_list(os.sched_getaffinity(0)))


def _require_numbers(environment: Mapping[str, str]) -> None:
    """Reject values such as ``OMP_NUM_THREADS=2,1``, which would end the process inside MXNet without a clear message."""
    for name in NAMES:
        value = environment.get(name, "1")
        kind, fraction = ("one number", r"(\.[0-9]+)?") if name == "HOROVOD_CYCLE_TIME" else ("one integer below 2^31", "")
        if name not in TEXTS and not (re.fullmatch(f"[0-9]+{fraction}", value) and float(value) < 2**31):
            raise RequestError(f"the environment variable {name} is {value!r}; expected {kind}, or unset it")
    if environment.get("OMP_NUM_THREADS") == "0":
        raise RequestError("the environment variable OMP_NUM_THREADS is 0; expected at least 1, or unset it")
