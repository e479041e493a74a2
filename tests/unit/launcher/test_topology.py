"""Rank and size from each launcher's variables."""

from __future__ import annotations

import pytest

from vggdist.launcher.topology import Topology, from_environment

LAUNCHERS = {
    "horovodrun on Gloo": ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
}


def environment(launcher: str, rank: int, size: int, local_rank: int, local_size: int) -> dict[str, str]:
    return dict(zip(LAUNCHERS[launcher], map(str, (rank, size, local_rank, local_size))))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_s_variables_are_read(launcher: str) -> None:
    assert from_environment({"PATH": "/bin", **environment(launcher, 5, 8, 1, 4)}) == Topology(5, 8, 1, 4)


def test_without_a_launcher_this_process_is_the_only_one() -> None:
    assert from_environment({"PATH": "/bin"}) == Topology(rank=0, size=1, local_rank=0, local_size=1)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_without_local_ranks_has_one_rank_on_each_host(launcher: str) -> None:
    global_only = dict(list(environment(launcher, 3, 4, 0, 1).items())[:2])
    assert from_environment(global_only) == Topology(3, 4, 0, 1)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_without_a_size_is_no_place(launcher: str) -> None:
    assert from_environment({LAUNCHERS[launcher][0]: "3"}) == Topology()


def test_horovod_s_own_variables_come_before_those_of_mpi() -> None:
    both = environment("Open MPI", 0, 1, 0, 1) | environment("horovodrun on Gloo", 2, 3, 2, 3)
    assert from_environment(both) == Topology(2, 3, 2, 3)
