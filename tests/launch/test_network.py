"""Training across two hosts, as network namespaces: by which network, and what follows when it breaks."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launch.hosts import NETWORKS, Hosts, address, hosts, ip, missing, namespace
from tests.launch.test_slurm import TINY, reported_steps
from tests.launching import DEADLINE, Finished, Running, command_line, result_of

LAUNCH = Path(__file__).parents[2] / "launch"
LOOPBACK, OTHER = "127.0.1.1", "10.98.0.{host}"
STEP = 11 * 2**10  # bytes that each of two ranks sends in a step of the small training
PROBES = 5 * 16 * 2**20  # bytes that the doctor reduces; each of two ranks sends so many

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


def start(way: str, two_hosts: Hosts, cwd: Path, *flags: str) -> Running:
    """Start a rank on each host."""
    (cwd / "hostfile").write_text("host1 slots=1\nhost2 slots=1\n")
    words = {"gloo": ["hosts.sh", f"{address(1)}:1,host2:1"], "mpirun": ["mpirun.sh", "2"]}[way]
    own = {"HOSTFILE": "hostfile"} if way == "mpirun" else {"INTERFACE": "wire"}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = two_hosts.on(1, str(LAUNCH / words[0]), *words[1:], *TINY, *flags)
    return Running(command, cwd, DEADLINE, PATH=two_hosts.path, **own, **root)


@pytest.fixture(params=["gloo", "mpirun"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "mpirun":
        command_line("mpirun", 2)  # skips where there is none
    return str(request.param)


def test_a_run_outlives_a_network_that_broke(way: str, two_hosts: Hosts, tmp_path: Path) -> None:
    """It trains, ends in time with a message when the link goes down, and continues when it is up again.

    Gloo sends its gradients through the interface that was asked for, though the host's name has another address.
    """
    two_hosts.name(LOOPBACK if way == "gloo" else None)
    before = {interface: two_hosts.sent(interface) for interface in NETWORKS}
    # mpirun must notice first: keepalive ends only a connection on which nothing is under way, not even the order to end.
    timeout = "60" if way == "mpirun" else "8"
    running = start(way, two_hosts, tmp_path, "--train.steps", "100000", "--run.timeout", timeout)
    running.wait_for(lambda: max(reported_steps(tmp_path), default=0) >= 60)
    sent = {interface: two_hosts.sent(interface) - before[interface] for interface in NETWORKS}
    assert way == "mpirun" or sent["wire"] > 60 * STEP > 100 * sent["other"]
    ip("-n", namespace(2), "link", "set", "wire", "down")
    try:
        finished: Finished = running.finish()
        assert finished.code != 0, finished.output
        # Reported by the watchdog of either host, or by mpirun, whose keepalive takes about 10 s.
        assert "no heartbeat" in finished.output or "lost communication" in finished.output, finished.output
    finally:
        ip("-n", namespace(2), "link", "set", "wire", "up")
    steps = max(reported_steps(tmp_path)) + 10
    finished = start(way, two_hosts, tmp_path, "--train.steps", str(steps)).finish()
    assert finished.code == 0 and "continuing from the checkpoint at step" in finished.output, finished.output
    assert (result_of(tmp_path)["step"], result_of(tmp_path)["world_size"]) == (steps, 2)


def horovodrun(two_hosts: Hosts, cwd: Path, interface: str) -> list[str]:
    return ["horovodrun", "--gloo", "-np", "2", "-H", f"{address(1)}:1,host2:1", "--network-interfaces", interface]


def elastic(two_hosts: Hosts, cwd: Path, interface: str) -> list[str]:
    script(cwd / "discover", f"printf '{address(1)}:1\\nhost2:1\\n'")
    discovery = ["--min-np", "2", "--host-discovery-script", str(cwd / "discover")]
    return ["horovodrun", "-np", "2", *discovery, "--network-interfaces", interface]


def slurm(two_hosts: Hosts, cwd: Path, interface: str) -> list[str]:
    """SLURM without MPI; what it does itself is played by two scripts."""
    job = "SLURM_JOB_NODELIST=host[1-2] SLURM_TASKS_PER_NODE=1(x2) SLURM_STEP_TASKS_PER_NODE=1(x2) SLURM_STEP_NUM_TASKS=2"
    job += f" SLURM_LOCALID=0 SLURM_LAUNCH_NODE_IPADDR={address(1)} HOROVOD_GLOO_IFACE={interface}"
    script(cwd / "scontrol", "echo host1 host2")
    ranks = [
        f'SLURM_PROCID={rank} SLURM_NODEID={rank} SLURMD_NODENAME=host{rank + 1} {shlex.join(two_hosts.on(rank + 1))} "$@"'
        for rank in (0, 1)
    ]
    script(cwd / "srun", f"{ranks[0]} & first=$!; {ranks[1]} && wait $first")
    path = f"PATH={cwd}{os.pathsep}{two_hosts.path}"
    return ["env", path, *job.split(), "python", "-m", "vggdist.rendezvous", "--", str(cwd / "srun")]


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


WAYS = {"horovodrun": horovodrun, "elastic": elastic, "slurm": slurm}


def doctor(way: str, two_hosts: Hosts, cwd: Path, interface: str) -> Finished:
    launcher = WAYS[way](two_hosts, cwd, interface)
    return Running(two_hosts.on(1, *launcher, "python", "-m", "vggdist.doctor"), cwd, DEADLINE, PATH=two_hosts.path).finish()


@pytest.mark.parametrize(
    ("through", "own_name"),
    [("horovodrun", OTHER), ("elastic", LOOPBACK), ("slurm", LOOPBACK)],
    ids=["horovodrun-another-network", "elastic", "slurm"],
)
def test_gradients_take_the_interface_that_was_asked_for_whatever_address_the_host_s_name_has(
    through: str, own_name: str, two_hosts: Hosts, tmp_path: Path
) -> None:
    two_hosts.name(own_name)
    before = {interface: two_hosts.sent(interface) for interface in NETWORKS}
    finished = doctor(through, two_hosts, tmp_path, "wire")
    assert finished.code == 0 and "allreduce: right" in finished.output, finished.output
    sent = {interface: two_hosts.sent(interface) - before[interface] for interface in NETWORKS}
    assert sent["wire"] > PROBES and sent["other"] < PROBES / 100
    report = json.loads((tmp_path / "runs" / "doctor.json").read_text())
    assert [one["interface"] for one in report["ranks"]] == ["wire", "wire"]


def test_an_interface_that_is_not_there_is_refused(two_hosts: Hosts, tmp_path: Path) -> None:
    two_hosts.name()
    finished = doctor("slurm", two_hosts, tmp_path, "wires")
    assert finished.code == 2, finished.output
    message = "HOROVOD_GLOO_IFACE is wires, but host1 has no interface of that name with an address (it has lo 127.0.0.1, wire"
    assert message in finished.output and "terminate" not in finished.output, finished.output


def test_one_process_needs_no_address_of_its_host_s_name(tmp_path: Path) -> None:
    unknown = ["unshare", "--uts", "sh", "-c", 'hostname nowhere.invalid; exec "$@"', "sh"]
    gloo = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}  # as a Horovod without MPI
    finished = Running([*unknown, sys.executable, "-m", "vggdist.doctor"], tmp_path, DEADLINE, **gloo).finish()
    assert finished.code == 0, finished.output
