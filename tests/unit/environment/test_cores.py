"""The number of cores of a rank, without those of other ranks and those beyond a container's limit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launching import command_line, execute
from vggdist.environment.cores import Cores, cgroup_quota, find_cores, format_cpu_list, own_cores, parse_cpu_list


@pytest.mark.parametrize(("local_size", "cores"), [(1, 16), (2, 8), (3, 5), (4, 4), (32, 1)])
def test_the_ranks_of_a_host_share_its_cores(local_size: int, cores: int) -> None:
    assert own_cores(Cores(mask=16, launcher_mask=16), local_size) == cores


@pytest.mark.parametrize("mask", [1, 2, 4])
def test_cores_that_a_launcher_has_divided_are_not_divided_again(mask: int) -> None:
    assert own_cores(Cores(mask=mask, launcher_mask=16), local_size=4) == mask


def test_ranks_that_a_launcher_binds_to_the_same_socket_share_it() -> None:
    assert own_cores(Cores(mask=8, launcher_mask=16), local_size=4) == 4


def test_a_small_container_is_no_launcher_s_binding() -> None:
    assert own_cores(Cores(mask=4, launcher_mask=4), local_size=4) == 1


def test_a_quota_is_shared_by_the_ranks() -> None:
    assert own_cores(Cores(mask=64, launcher_mask=64, quota=8.0), local_size=2) == 4
    assert own_cores(Cores(mask=64, launcher_mask=64, quota=0.5), local_size=1) == 1


def test_slurm_s_cores_of_a_task_are_not_exceeded() -> None:
    assert own_cores(Cores(mask=64, launcher_mask=64, per_task=6), local_size=2) == 6


def group(root: Path, files: dict[str, str], membership: str) -> float | None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "membership").write_text(membership)
    return cgroup_quota(root, root / "membership")


def test_version_2_s_quota_is_the_smallest_on_the_way_up(tmp_path: Path) -> None:
    files = {"cpu.max": "max 100000", "pod/cpu.max": "150000 100000", "pod/box/cpu.max": "400000 100000"}
    assert group(tmp_path, files, "0::/pod/box") == 1.5


def test_version_1_s_quota_is_found_among_other_controllers(tmp_path: Path) -> None:
    files = {"cpu/job/cpu.cfs_quota_us": "300000", "cpu/job/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "-1"}
    assert group(tmp_path, files, "5:memory:/x\n3:cpu,cpuacct:/job") == 3.0


@pytest.mark.parametrize("files", [{}, {"cpu.max": "max 100000"}, {"cpu.max": "garbage"}])
def test_without_a_limit_there_is_no_quota(tmp_path: Path, files: dict[str, str]) -> None:
    assert group(tmp_path, files, "0::/") is None


def test_this_process_is_counted_by_its_affinity() -> None:
    program = (
        "import os; os.sched_setaffinity(0, {0}); from vggdist.environment.cores import find_cores; print(find_cores({}))"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.startswith("Cores(mask=1, launcher_mask=1")
    assert find_cores({"SLURM_CPUS_PER_TASK": "3"}).per_task == 3


def test_lists_of_the_kernel_are_read() -> None:
    assert parse_cpu_list("0-2,5,8-9\n") == {0, 1, 2, 5, 8, 9}


@pytest.mark.parametrize(("cores", "text"), [([0], "0"), ([3, 0, 1, 2], "0-3"), ([0, 2, 3, 7], "0,2-3,7")])
def test_cores_are_written_as_the_kernel_does(cores: list[int], text: str) -> None:
    assert format_cpu_list(cores) == text


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be divided")
def test_what_mpirun_has_bound_is_recognised(tmp_path: Path) -> None:
    program = (
        "import os; from vggdist.environment.cores import find_cores; cores = find_cores({});"
        "os.write(1, b'bound: %r;' % (cores.mask < cores.launcher_mask))"  # one write: the other rank writes, too
    )
    for binding, expected in (("core", "bound: True"), ("none", "bound: False")):
        command = [binding if word == "none" else word for word in command_line("mpirun", 2)]
        finished = execute([*command, "-c", program], tmp_path, 240)
        assert finished.code == 0 and finished.output.count(expected) == 2
