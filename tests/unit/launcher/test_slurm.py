"""SLURM's variables: position of a task, its job, and Horovod's rendezvous server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from vggdist.environment.network_interfaces import interface_towards
from vggdist.launcher import slurm
from vggdist.launcher.topology import Topology, from_environment, launcher

BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "5"}
PORT = {"HOROVOD_GLOO_RENDEZVOUS_PORT": "4000"}


def task(rank: int, local_rank: int, node: int, counts: str = "2(x2),1", size: int = 5) -> dict[str, str]:
    """A task of a job step, as srun of SLURM 22.05 describes it."""
    return {
        **BATCH,
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(local_rank),
        "SLURM_NODEID": str(node),
        "SLURMD_NODENAME": f"n{node + 1}",
        "SLURM_STEP_NUM_TASKS": str(size),
        "SLURM_STEP_TASKS_PER_NODE": counts,
        "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
    }


@pytest.mark.parametrize(("text", "counts"), [("1", [1]), ("2(x3)", [2, 2, 2]), ("4,2(x2),1", [4, 2, 2, 1])])
def test_the_tasks_of_each_node_are_read(text: str, counts: list[int]) -> None:
    assert slurm.tasks_per_node(text) == counts


@pytest.mark.parametrize("text", ["", "2(x", "two", "2;2"])
def test_another_format_of_the_tasks_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="tasks of each node"):
        slurm.tasks_per_node(text)


def test_a_task_of_srun_knows_its_place() -> None:
    assert from_environment(task(3, 1, 1)) == Topology(rank=3, size=5, local_rank=1, local_size=2)
    assert from_environment(task(4, 0, 2)) == Topology(rank=4, size=5, local_rank=0, local_size=1)
    assert launcher(task(3, 1, 1)) == "srun"


def test_a_batch_script_is_no_task_though_it_has_a_rank_and_a_number_of_tasks() -> None:
    assert from_environment(BATCH) == Topology() and launcher(BATCH) is None


@pytest.mark.parametrize(("name", "prefix"), [("horovodrun", "HOROVOD_"), ("mpirun", "OMPI_COMM_WORLD_")])
def test_another_launcher_within_a_task_comes_first(name: str, prefix: str) -> None:
    environment = {**task(0, 0, 0), f"{prefix}RANK": "1", f"{prefix}SIZE": "2"}
    assert launcher(environment) == name and from_environment(environment) == Topology(1, 2)


def test_a_task_that_found_its_rendezvous_is_still_srun_s() -> None:
    found = {**task(3, 1, 1), **PORT, **slurm.rendezvous({**task(3, 1, 1), **PORT}, lambda address: "eth0")}
    assert launcher(found) == "srun" and from_environment(found) == Topology(3, 5, 1, 2)


def cross(tasks: Sequence[dict[str, str]]) -> list[tuple[str, str]]:
    variables = [slurm.rendezvous({**task, **PORT}, lambda address: "eth0") for task in tasks]
    return [(found["HOROVOD_CROSS_RANK"], found["HOROVOD_CROSS_SIZE"]) for found in variables]


def test_tasks_of_a_rendezvous_become_ranks_of_horovod() -> None:
    assert slurm.rendezvous({**task(3, 1, 1), **PORT}, {"10.0.0.1": "ib0"}.get) == {
        "HOROVOD_HOSTNAME": "n2",
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "5",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "1",
        "HOROVOD_CROSS_SIZE": "2",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
        "HOROVOD_GLOO_IFACE": "ib0",
    }


def test_cross_ranks_count_the_nodes_that_have_such_a_local_rank() -> None:
    assert cross([task(0, 0, 0), task(3, 1, 1), task(4, 0, 2)]) == [("0", "3"), ("1", "2"), ("2", "3")]


def test_address_and_interface_that_the_user_chose_stay() -> None:
    own = {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "192.168.0.1", "HOROVOD_GLOO_IFACE": "ib1"}
    found = slurm.rendezvous({**task(0, 0, 0), **PORT, **own}, lambda address: "eth0")
    assert {name: found[name] for name in own} == own


@pytest.mark.parametrize("environment", [PORT, task(0, 0, 0), {**task(0, 0, 0), **PORT, "HOROVOD_RANK": "0"}])
def test_without_a_rendezvous_nothing_is_set(environment: dict[str, str]) -> None:
    assert slurm.rendezvous(environment, lambda address: "eth0") == {}


@pytest.mark.parametrize("own", [{"PMIX_RANK": "0"}, {"PMI_RANK": "0"}, {"SLURM_MPI_TYPE": "pmix"}, {"HOROVOD_RANK": "0"}])
def test_tasks_with_a_way_to_each_other_are_connected(own: dict[str, str]) -> None:
    assert slurm.can_connect({**task(0, 0, 0), **own})


def test_tasks_without_any_are_not() -> None:
    assert not slurm.can_connect(task(0, 0, 0)) and not slurm.can_connect({**task(0, 0, 0), "SLURM_MPI_TYPE": "none"})
    assert slurm.can_connect(task(0, 0, 0, counts="1", size=1)) and slurm.can_connect({})


def test_the_job_is_reported_with_its_restarts() -> None:
    assert slurm.job(BATCH) == {"job": "7", "nodes": "n[1-3]", "restarts": 0}
    array = {"SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": "2"}
    assert slurm.job({**BATCH, **array}) == {"job": "7", "array_task": "6_1", "nodes": "n[1-3]", "restarts": 2}
    assert slurm.job({}) == {}


def test_the_interface_towards_this_host_is_the_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no such address") is None
