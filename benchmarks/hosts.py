"""For ``network.py``: hosts as network namespaces on this machine, joined by a bridge with links of a given speed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

INTERFACE = "eth0"  # of every host


def missing() -> str | None:
    """Why namespaces cannot be made on this machine; None if they can."""
    absent = [name for name in ("ip", "tc", "taskset", "unshare") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt install iproute2 util-linux)"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"network namespaces are not allowed here ({tried.stderr.strip()})"


def namespace(host: int) -> str:
    """Name of the namespace of a host, counted from 1; 0 is the bridge's."""
    return f"vggdist{os.getpid()}-{host}"


def address(host: int) -> str:
    """Address of a host, counted from 1."""
    return f"10.97.0.{host}"


@contextlib.contextmanager
def hosts(count: int, gigabits: float | None) -> Iterator[None]:
    """Make this number of hosts, and delete them at the end.

    Args:
        gigabits: per second of each link in each direction; None: no limit.
    """
    bridge = namespace(0)
    try:
        _run("ip", "netns", "add", bridge)
        _run("ip", "-n", bridge, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", bridge, "link", "set", "bridge", "up")
        for host in range(1, count + 1):
            own, port = namespace(host), f"port{host}"
            _run("ip", "netns", "add", own)
            _run("ip", "link", "add", INTERFACE, "netns", own, "type", "veth", "peer", "name", port, "netns", bridge)
            _run("ip", "-n", bridge, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", own, "addr", "add", f"{address(host)}/24", "dev", INTERFACE)
            for device in ("lo", INTERFACE):
                _run("ip", "-n", own, "link", "set", device, "up")
            if gigabits is not None:
                _limit(own, INTERFACE, gigabits)
                _limit(bridge, port, gigabits)
        yield
    finally:
        for host in range(count + 1):
            subprocess.run(["ip", "netns", "del", namespace(host)], capture_output=True)


def on(host: int, count: int) -> tuple[str, ...]:
    """Prefix of a command that runs it on a host, on the host's share of this machine's cores."""
    return "ip", "netns", "exec", namespace(host), "taskset", "-c", ",".join(map(str, cores_of(host, count)))


def cores_of(host: int, count: int) -> list[int]:
    """Cores of a host, counted from 1, of ``count``; hosts share cores where there are fewer."""
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // count)
    return [cores[(each * (host - 1) + index) % len(cores)] for index in range(each)]


def sent_by(pid: int) -> int:
    """Bytes that the host of a process has sent."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith(f"{INTERFACE}:"))


def _limit(namespace: str, device: str, gigabits: float) -> None:
    """Limit what a device sends. netem could add delays, but not every kernel has it."""
    shape = ("rate", f"{gigabits * 1000:g}mbit", "burst", "256kb", "latency", "100ms")
    _run("ip", "netns", "exec", namespace, "tc", "qdisc", "add", "dev", device, "root", "tbf", *shape)


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, text=True)
