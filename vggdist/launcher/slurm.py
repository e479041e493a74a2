"""SLURM's environment variables: rank and size of a task, its job, and how it reaches Horovod's rendezvous server."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping


def task_position(environment: Mapping[str, str]) -> tuple[int, int, int, int] | None:
    """Rank, size, local rank and local size of a task that ``srun`` started; None outside such a task.

    A batch script has ``SLURM_PROCID`` and ``SLURM_NTASKS``, too, but no variables of a step.
    """
    try:
        rank, size = int(environment["SLURM_PROCID"]), int(environment["SLURM_STEP_NUM_TASKS"])
        counts = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
        return rank, size, int(environment["SLURM_LOCALID"]), counts[int(environment["SLURM_NODEID"])]
    except (KeyError, ValueError, IndexError):
        return None


def tasks_per_node(text: str) -> list[int]:
    """``"2(x3),1"`` as ``[2, 2, 2, 1]``.

    Raises:
        ValueError: the text has another format.
    """
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if found is None:
            raise ValueError(f"{text!r} does not list the tasks of each node as '2(x3),1' does")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def rendezvous(environment: Mapping[str, str], interface_towards: Callable[[str], str | None]) -> dict[str, str]:
    """Horovod's variables for a task that ``vggdist rendezvous`` started with ``srun``; empty for any other process.

    Each task binds Gloo to its own interface towards the node of the rendezvous server, so interface names may differ between
    nodes.

    Args:
        interface_towards: returns the name of the interface from which packets to an address leave.
    """
    found = task_position(environment)
    if found is None or "HOROVOD_RANK" in environment or "HOROVOD_GLOO_RENDEZVOUS_PORT" not in environment:
        return {}
    rank, size, local_rank, local_size = found
    counts, node = tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"]), int(environment["SLURM_NODEID"])
    has_this_local_rank = [count > local_rank for count in counts]
    address = environment.get("HOROVOD_GLOO_RENDEZVOUS_ADDR") or environment["SLURM_LAUNCH_NODE_IPADDR"]
    interface = environment.get("HOROVOD_GLOO_IFACE") or interface_towards(address)
    return {
        "HOROVOD_HOSTNAME": environment["SLURMD_NODENAME"],
        "HOROVOD_RANK": str(rank),
        "HOROVOD_SIZE": str(size),
        "HOROVOD_LOCAL_RANK": str(local_rank),
        "HOROVOD_LOCAL_SIZE": str(local_size),
        "HOROVOD_CROSS_RANK": str(sum(has_this_local_rank[:node])),
        "HOROVOD_CROSS_SIZE": str(sum(has_this_local_rank)),
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": address,
        **({"HOROVOD_GLOO_IFACE": interface} if interface else {}),
    }


def can_connect(environment: Mapping[str, str]) -> bool:
    """Whether tasks of ``srun`` can find each other, by PMI or a rendezvous server. True outside SLURM."""
    found = task_position(environment)
    if found is None or found[1] == 1 or any(name in environment for name in ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")):
        return True
    return environment.get("SLURM_MPI_TYPE", "none") != "none" or any(
        name in environment for name in ("PMIX_RANK", "PMI_RANK")
    )


def job(environment: Mapping[str, str]) -> dict[str, str | int]:
    """The SLURM job of this process, for the log and ``result.json``; empty outside SLURM."""
    if "SLURM_JOB_ID" not in environment:
        return {}
    fields: dict[str, str | int] = {"job": environment["SLURM_JOB_ID"]}
    if "SLURM_ARRAY_JOB_ID" in environment:
        fields["array_task"] = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment.get('SLURM_ARRAY_TASK_ID', '?')}"
    fields["nodes"] = environment.get("SLURM_JOB_NODELIST", "?")
    restarts = environment.get("SLURM_RESTART_COUNT", "0")  # unset before the first restart
    fields["restarts"] = int(restarts) if restarts.isdecimal() else 0
    return fields
