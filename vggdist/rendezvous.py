"""Horovod on Gloo for ranks that SLURM starts: ``vggdist rendezvous -- srun --mpi=none python -m vggdist.train ...``.

Needs neither MPI nor ssh. It runs Horovod's rendezvous server, through which the ranks exchange addresses, while the command
runs. The ranks read rank and size from ``SLURM_*``; the server is on the node that ran srun (``vggdist.launcher.slurm``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from vggdist.config.errors import RequestError
from vggdist.launcher.slurm import tasks_per_node
from vggdist.processes import streams

USAGE = "usage: vggdist rendezvous -- srun --mpi=none [OPTIONS] python -m vggdist.train [ARGUMENTS]  (in a SLURM allocation)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and the server; returns the command's exit code, or 2 for a wrong request."""
    streams.protect()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["-h"], ["--help"]):
        print(USAGE)
        return 0
    try:
        if words[:1] != ["--"] or len(words) < 2:
            raise RequestError(f"a command is missing; {USAGE}")
        hosts = allocation(os.environ)
        return _serve(words[1:], hosts)
    except RequestError as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return error.exit_code


def allocation(environment: Mapping[str, str]) -> str:
    """The nodes of this allocation and their tasks, in Horovod's format: ``"node1:2,node2:2"``.

    Raises:
        RequestError: outside an allocation, or if SLURM does not report them.
    """
    if "SLURM_JOB_NODELIST" not in environment:
        raise RequestError("rendezvous runs inside a SLURM allocation (sbatch or salloc): SLURM_JOB_NODELIST is not set")
    try:
        counts = tasks_per_node(environment.get("SLURM_TASKS_PER_NODE", ""))
        nodes = subprocess.run(["scontrol", "show", "hostnames"], env=environment, capture_output=True, text=True, check=True)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise RequestError(f"SLURM does not report this allocation's nodes and tasks: {error}") from None
    return ",".join(f"{node}:{count}" for node, count in zip(nodes.stdout.split(), counts))


def _serve(command: Sequence[str], hosts: str) -> int:
    from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
    from horovod.runner.http.http_server import RendezvousServer

    server = RendezvousServer()
    port = server.start()
    parsed = parse_hosts(hosts)
    size = sum(host.slots for host in parsed)
    server.init(get_host_assignments(parsed, size, size))
    gloo = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo", "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port)}
    process: subprocess.Popen[bytes] | None = None
    arrived: list[int] = []

    def forward(number: int, frame: object) -> None:
        arrived.append(number) if process is None else process.send_signal(number)

    signal.signal(signal.SIGUSR1, forward)  # srun forwards it
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # SLURM sends it to the ranks as well: let them save first
    try:
        process = subprocess.Popen(command, env={**os.environ, **gloo})
    except OSError as error:
        raise RequestError(f"{command[0]} cannot be started: {error}") from None
    for number in arrived:
        process.send_signal(number)
    code = process.wait()
    server.stop()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
