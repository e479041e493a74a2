"""Each rank of a host is bound to its own cores, unless the host may be shared with other jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import DEADLINE
from vggdist.environment import binding
from vggdist.environment.binding import bind, bind_near, core_share, sorted_by_locality
from vggdist.environment.cores import Cores
from vggdist.launcher.topology import Topology


@pytest.mark.parametrize(("local_size", "each"), [(2, 4), (4, 2), (8, 1)])
def test_the_parts_of_all_ranks_are_all_cores_once(local_size: int, each: int) -> None:
    shares = [core_share(range(10, 18), rank, local_size) for rank in range(local_size)]
    assert [len(share or ()) for share in shares] == [each] * local_size
    assert [core for share in shares for core in share or ()] == list(range(10, 18))


@pytest.mark.parametrize("local_size", [1, 3, 16])
def test_cores_that_do_not_divide_are_not_divided(local_size: int) -> None:
    assert core_share(range(8), 0, local_size) is None


def machine(root: Path, locations: list[tuple[int, int, int]]) -> Path:
    """The kernel's files about cores, each with socket, NUMA node and physical core."""
    for number, (socket, node, core) in enumerate(locations):
        (root / f"cpu{number}" / f"node{node}").mkdir(parents=True)
        (root / f"cpu{number}" / "topology").mkdir()
        (root / f"cpu{number}" / "topology" / "physical_package_id").write_text(f"{socket}\n")
        (root / f"cpu{number}" / "topology" / "core_id").write_text(f"{core}\n")
    return root


def test_the_threads_of_a_physical_core_stay_together(tmp_path: Path) -> None:
    root = machine(tmp_path, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 1)])
    assert sorted_by_locality({0, 1, 2, 3}, root) == [0, 2, 1, 3]


def test_the_cores_of_a_memory_node_and_of_a_socket_stay_together(tmp_path: Path) -> None:
    root = machine(tmp_path, [(socket, 2 * socket + node, 0) for _ in range(2) for node in (0, 1) for socket in (0, 1)])
    assert sorted_by_locality(range(8), root) == [0, 4, 2, 6, 1, 5, 3, 7]


def test_without_the_kernel_s_files_cores_are_sorted_by_number(tmp_path: Path) -> None:
    assert sorted_by_locality({11, 3, 7}, tmp_path) == [3, 7, 11]


ALL, RANK = Cores(4, 4), Topology(1, 2, 1, 2)


@pytest.fixture
def bound(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The cores to which threads were bound, on a machine with four cores."""
    calls: list[list[int]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: calls.append(list(cores)))
    monkeypatch.setattr(binding, "sorted_by_locality", sorted)
    return calls


def test_a_rank_is_bound_to_its_part(bound: list[list[int]]) -> None:
    bind(ALL, RANK, {})
    assert bound == [[2, 3]]


@pytest.mark.parametrize(
    ("cores", "environment"),
    [
        (Cores(4, 8), {}),
        (Cores(4, 4, quota=2.0), {}),
        (ALL, {"SLURM_JOB_ID": "7"}),
        (ALL, {"HOROVOD_ELASTIC": "1"}),
        (ALL, {"OMP_PROC_BIND": "close"}),
        (ALL, {"GOMP_CPU_AFFINITY": "0-3"}),
    ],
)
def test_a_rank_is_left_alone_where_others_may_have_the_cores_or_somebody_has_placed_it(
    cores: Cores, environment: dict[str, str], bound: list[list[int]]
) -> None:
    bind(cores, RANK, environment)
    assert bound == []


GPU = "0000:3b:00.0"


def make_gpu(devices: Path, cores: str) -> Path:
    """Linux's files about a GPU on the PCI bus."""
    (devices / GPU).mkdir()
    (devices / GPU / "local_cpulist").write_text(f"{cores}\n")
    return devices


@pytest.mark.parametrize(("near", "taken"), [("2-3,6-7", [2, 3]), ("0-127", [0, 1, 2, 3]), ("1", [1])])
def test_a_rank_keeps_to_the_cores_near_its_gpu_as_far_as_it_may_use_them(
    near: str, taken: list[int], bound: list[list[int]], tmp_path: Path
) -> None:
    bind_near(GPU, ALL, {"SLURM_JOB_ID": "7"}, make_gpu(tmp_path, near))
    assert bound == [taken]


@pytest.mark.parametrize(
    ("near", "cores", "environment"),
    [
        ("4-7", ALL, {}),  # none of them is free for this process
        ("", ALL, {}),
        ("?", ALL, {}),
        ("0-1", Cores(2, 4), {}),  # a launcher has chosen
        ("0-1", ALL, {"OMP_PLACES": "cores"}),
    ],
)
def test_a_rank_whose_gpu_has_no_near_cores_or_that_was_placed_is_left_alone(
    near: str, cores: Cores, environment: dict[str, str], bound: list[list[int]], tmp_path: Path
) -> None:
    bind_near(GPU, cores, environment, make_gpu(tmp_path, near))
    assert bound == []


def test_a_gpu_that_linux_does_not_describe_leaves_a_rank_alone(bound: list[list[int]], tmp_path: Path) -> None:
    bind_near(GPU, ALL, {}, tmp_path)
    assert bound == []


def test_a_sandbox_that_forbids_it_is_no_error(monkeypatch: pytest.MonkeyPatch, bound: list[list[int]]) -> None:
    def forbid(process: int, cores: list[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    bind(ALL, RANK, {})


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be divided")
def test_threads_that_start_later_stay_on_the_cores() -> None:
    program = (
        "import os, threading\n"
        "from vggdist.environment.binding import bind\n"
        "from vggdist.environment.cores import Cores\n"
        "from vggdist.launcher.topology import Topology\n"
        "cores = sorted(os.sched_getaffinity(0)); half = len(cores) // 2\n"
        "os.sched_setaffinity(0, cores[: 2 * half])\n"
        "bind(Cores(2 * half, 2 * half), Topology(1, 2, 1, 2), {})\n"
        "threading.Thread(target=lambda: print(len(os.sched_getaffinity(0)) == half)).start()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert done.stdout == "True\n"
