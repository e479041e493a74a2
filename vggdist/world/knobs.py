"""The environment that MXNet, OpenMP, Open MPI and Horovod read when they are imported or started."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from vggdist.world import slurm
from vggdist.world.cores import find_cores, own_cores
from vggdist.world.interfaces import interface_towards
from vggdist.world.topology import Topology, from_environment


def chosen(topology: Topology, cores: int, gloo: bool) -> Mapping[str, str]:
    """The settings that suit this place, each with its reason beside it.

    Args:
        cores: cores that this rank has for itself.
        gloo: Horovod's ranks talk by Gloo, not by MPI.
    """
    return {
        # More threads than cores make the ranks of one host wait for each other.
        "OMP_NUM_THREADS": str(cores),
        # Idle ranks of Open MPI otherwise spin on the cores that compute.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Milliseconds between two looks of Horovod's thread for work. What is ready waits for the next one, but each takes
        # time from the cores that compute, on Gloo, whose ranks talk by TCP each time, so much that 1 ms is slower.
        "HOROVOD_CYCLE_TIME": "5" if gloo and topology.size > 1 else "1",
    }


def apply(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Set what the user has not set; must run before ``import mxnet``. Returns every setting in effect.

    Ranks that SLURM starts without MPI find their place for Horovod here, too.
    """
    environment.update(slurm.rendezvous(environment, interface_towards))
    topology = from_environment(environment)
    gloo = environment.get("HOROVOD_CONTROLLER") == "gloo"
    settings = chosen(topology, own_cores(find_cores(environment), topology.local_size), gloo)
    for name, value in settings.items():
        environment.setdefault(name, value)
    return {name: environment[name] for name in settings}
