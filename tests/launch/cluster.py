"""A whole SLURM on this machine for the tests: munged, slurmctld, and a slurmd for each of two virtual nodes."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.launching import DEADLINE

NODES = ("node1", "node2")
DAEMONS = ("munged", "slurmctld", "slurmd")
PROJECT = Path(__file__).parents[2]
# Virtual nodes share a host: Open MPI would take their ranks for neighbours in shared memory. Tests may run as root.
_VIRTUAL = {
    "OMPI_MCA_btl": "self,tcp",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_odls_base_sigkill_timeout": "4",  # each job that fails takes twice so long
}
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED"}
_FOREIGN = ("OMPI_", "HOROVOD_", "PMIX_", "SLURM_", "SBATCH_")


def missing() -> str | None:
    """What keeps this machine from running a SLURM of its own."""
    absent = [name for name in (*DAEMONS, "sbatch", "srun") if _daemon(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt install --no-install-recommends slurm-wlm munge)"
    return "starting slurmd needs root" if os.geteuid() != 0 else None


def _daemon(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


class Cluster:
    """The cluster; its nodes share this machine, and their daemons keep what they need in ``state``."""

    def __init__(self, state: Path) -> None:
        self.state = state
        clean = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"SLURM_CONF": str(state / "slurm.conf"), "PATH": path, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
        patient = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "300"}  # several jobs start at once
        self.environment = {**clean, **own, **_VIRTUAL, **patient}

    def run(self, *command: str, folder: Path | None = None, deadline: float = DEADLINE, **environment: str) -> str:
        """Run a command of SLURM's in a folder; returns its output."""
        asked = {"env": {**self.environment, **environment}, "cwd": folder, "timeout": deadline}
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **asked)  # type: ignore
        assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
        return done.stdout

    def submit(self, folder: Path, script: str, *options: str, arguments: tuple[str, ...] = (), **environment: Any) -> Job:
        """Submit a batch script from a folder, with options that replace those in its head."""
        edited = ["--parsable", "--account=test", "--partition=main", "--output=job-%A-%a.log", *options]
        number = self.run("sbatch", *edited, script, *arguments, folder=folder, **environment)
        return Job(self, folder, number.strip())

    def logs(self) -> str:
        """What the daemons say, for the message of a test that fails."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.state.glob("*.log")))


class Job:
    """A job that was submitted from a folder."""

    def __init__(self, cluster: Cluster, folder: Path, number: str) -> None:
        self.cluster, self.folder, self.number = cluster, folder, number

    @property
    def log(self) -> str:
        """What the job has printed so far."""
        paths = sorted(self.folder.glob(f"job-{self.number}-*.log"))
        return "\n".join(path.read_text(errors="replace") for path in paths)

    def shown(self) -> dict[str, str]:
        """Fields of ``scontrol show job`` (of the first task of an array)."""
        words = self.cluster.run("scontrol", "show", "job", "--oneliner", self.number).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, condition: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Wait until something is so; fails with the job's log at the deadline."""
        until = time.monotonic() + deadline
        while not condition():
            if time.monotonic() > until:
                shown = self.shown()
                self.cluster.run("scancel", "--quiet", self.number)
                raise AssertionError(
                    f"job {self.number} did not reach the expected state: {shown}\n{self.log}\n{self.cluster.logs()}"
                )
            time.sleep(0.1)

    def finish(self, deadline: float = DEADLINE) -> int:
        """Wait for the end of the job, and of all tasks of an array; returns its exit code, 0 where it ended by a signal."""
        self.wait_for(lambda: _OVER.issuperset(self.states()), deadline)
        return int(self.shown()["ExitCode"].split(":")[0])

    def states(self) -> list[str]:
        """The state of the job, or of each task of an array."""
        return re.findall(r"JobState=(\w+)", self.cluster.run("scontrol", "show", "job", "--oneliner", self.number))


@contextlib.contextmanager
def running(state: Path) -> Iterator[Cluster]:
    """A cluster for a while; its daemons and all that they started end with it."""
    cluster = Cluster(state)
    _configure(state)
    try:
        _start(cluster)
        yield cluster
    finally:
        _stop(state)


def _configure(state: Path) -> None:
    for name in NODES:
        (state / "tmp" / name).mkdir(parents=True)  # PMIx folders of two nodes must not collide
    (state / "spool").mkdir()
    (state / "munge.key").write_bytes(os.urandom(128))
    (state / "munge.key").chmod(0o400)
    (state / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (state / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")  # two devices that always exist
    ports = _free_ports(1 + len(NODES))
    host = socket.gethostname().split(".")[0]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=4000 Gres=gpu:2"
        for name, port in zip(NODES, ports[1:])
    ]
    (state / "slurm.conf").write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={state}/munge.sock,cred_expire=5
SlurmctldPidFile={state}/slurmctld.pid
SlurmdPidFile={state}/slurmd-%n.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdLogFile={state}/slurmd-%n.log
StateSaveLocation={state}/spool
SlurmdSpoolDir={state}/spool/%n
TmpFS={state}/tmp/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
KillWait=30
JobRequeue=1
GresTypes=gpu
SlurmdParameters=config_overrides
"""
        + "\n".join(nodes)
        + "\nPartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120"
        + "\nPartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2\n"
    )


def _free_ports(count: int) -> list[int]:
    """Below those that the system gives to connections: it would give one away before its daemon listens."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(range(10_000, 32_000), 100):
            with contextlib.suppress(OSError):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
                found.append(port)
            if len(found) == count:
                return found
    raise AssertionError("no free ports")


def _start(cluster: Cluster) -> None:
    state = cluster.state
    files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
    munge = [f"--{option}={state / name}" for option, name in {**files, "seed-file": "munge.seed"}.items()]
    conf = str(state / "slurm.conf")
    for command in (
        ["munged", *munge, "--force"],
        ["slurmctld", "-i", "-f", conf],
        *(["slurmd", "-f", conf, "-N", name] for name in NODES),
    ):
        cluster.run(str(_daemon(command[0])), *command[1:])
    until = time.monotonic() + DEADLINE
    while set(found := _states_of_nodes(cluster)) != {"idle"}:
        assert time.monotonic() < until, f"the nodes did not come up: {found}\n{cluster.logs()}"
        time.sleep(0.1)


def _states_of_nodes(cluster: Cluster) -> list[str]:
    try:
        return cluster.run("sinfo", "--noheader", "--partition=main", "--format=%T").split()
    except AssertionError as error:  # its controller does not answer yet
        return [str(error)]


def _stop(state: Path) -> None:
    """End the daemons by their pid files, then what jobs may have left."""
    processes = []
    for path in [*state.glob("slurm*.pid"), *state.glob("munged.pid")]:
        with contextlib.suppress(psutil.Error, ValueError, OSError):
            processes.append(psutil.Process(int(path.read_text())))
    children = [child for process in processes for child in _descendants(process)]
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(processes, timeout=5)
    for process in [*left, *children, *_of_this_cluster(state)]:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _of_this_cluster(state: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("SLURM_CONF") == str(state / "slurm.conf"):
                yield process
