"""The environment that MXNet, OpenMP, Open MPI and Horovod read when they are imported or started."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from vggdist.world import slurm
from vggdist.world.cores import find_cores, own_cores
from vggdist.world.interfaces import interface_towards
from vggdist.world.topology import Topology, from_environment


def chosen(topology: Topology, cores: int) -> Mapping[str, str]:
    """The settings that suit this place, each with its reason beside it.

    Args:
        cores: cores that this rank has for itself.
    """
    return {
        # More threads than cores make the ranks of one host wait for each other.
        "OMP_NUM_THREADS": str(cores),
        # Idle ranks of Open MPI otherwise spin on the cores that compute.
        "OMPI_MCA_mpi_yield_when_idle": "1",
        # Each cycle of Horovod's background thread wakes a core that computes (milliseconds).
        "HOROVOD_CYCLE_TIME": "20" if topology.size > 1 else "1",
    }


def apply(environment: MutableMapping[str, str] = os.environ) -> dict[str, str]:
    """Set what the user has not set; must run before ``import mxnet``. Returns every setting in effect.

    Ranks that SLURM starts without MPI find their place for Horovod here, too.
    """
    environment.update(slurm.rendezvous(environment, interface_towards))
    topology = from_environment(environment)
    settings = chosen(topology, own_cores(find_cores(environment), topology.local_size))
    for name, value in settings.items():
        environment.setdefault(name, value)
    return {name: environment[name] for name in settings}
