"""Two hosts for the tests: network namespaces with two cables between them, names of their own, and ssh to the second."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

SSHD = shutil.which("sshd", path="/usr/sbin:/sbin")
NETWORKS = {"wire": "10.99.0.{host}", "other": "10.98.0.{host}"}
"""Interface, of the same name on both hosts, and its address."""


def missing() -> str | None:
    """What this machine lacks to be two hosts."""
    lacking = [name for name in ("ip", "unshare", "ssh", "ssh-keygen") if shutil.which(name) is None] + ["sshd"] * (not SSHD)
    if os.geteuid() != 0 or lacking:
        return f"needs root, iproute2 and openssh-server (missing: {', '.join(lacking) or 'root'})"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"needs the right to make namespaces ({tried.stderr.strip()})"


def address(host: int, interface: str = "wire") -> str:
    """The address of a host, 1 or 2."""
    return NETWORKS[interface].format(host=host)


def namespace(host: int) -> str:
    """Its name on this machine, where other tests may run as well."""
    return f"vggdist{os.getpid()}-{host}"


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """The two hosts, ``host1`` and ``host2``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, own: str | None = None) -> None:
        """Write ``/etc/hosts`` of both: each finds the other on the wire, and its own name there, or at ``own``.

        Args:
            own: an address that may contain ``{host}``.
        """
        for host in (1, 2):
            itself, other = (own or NETWORKS["wire"]).format(host=host), 3 - host
            text = f"127.0.0.1 localhost\n{itself} host{host}\n{address(other)} host{other}\n"
            (self.folder / f"hosts{host}").write_text(text)

    def on(self, host: int, *command: str) -> list[str]:
        """A command as run on a host."""
        own = f'hostname host{host}; mount --bind {self.folder}/hosts{host} /etc/hosts; exec "$@"'
        return ["ip", "netns", "exec", namespace(host), "unshare", "-u", "-m", "sh", "-c", own, "sh", *command]

    @property
    def path(self) -> str:
        """``PATH`` with this Python, and an ``ssh`` that knows the second host's key."""
        return os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])

    def sent(self, interface: str) -> int:
        """Bytes that the first host has sent from an interface so far."""
        command = ["ip", "netns", "exec", namespace(1), "cat", "/proc/net/dev"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        return next(int(line.split()[9]) for line in lines if line.strip().startswith(f"{interface}:"))


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Make them; they are gone afterwards. ``missing()`` must be None."""
    made = Hosts(folder)
    made.name()
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    easy = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {folder}/key"
    easy += " -o ConnectionAttempts=30"  # each second: a link carries nothing for some time after it was set up
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {easy} "$@"\n')
    (folder / "bin" / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)
    settings = {"HostKey": "host_key", "AuthorizedKeysFile": "key.pub", "PidFile": "sshd.pid"}
    files = [f"-o{name}={folder / file}" for name, file in settings.items()]
    try:
        for host in (1, 2):
            ip("netns", "add", namespace(host))
        for cable in NETWORKS:
            ip("link", "add", cable, "netns", namespace(1), "type", "veth", "peer", "name", cable, "netns", namespace(2))
            for host in (1, 2):
                ip("-n", namespace(host), "addr", "add", f"{address(host, cable)}/24", "dev", cable)
        for host in (1, 2):
            for device in ("lo", *NETWORKS):
                ip("-n", namespace(host), "link", "set", device, "up")
        rights = ["-oStrictModes=no", "-oPermitRootLogin=yes"]
        subprocess.run(made.on(2, str(SSHD), "-f", "/dev/null", *rights, *files), check=True)
        yield made
    finally:
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            daemon = psutil.Process(int((folder / "sshd.pid").read_text()))
            for process in [*daemon.children(recursive=True), daemon]:
                process.kill()
        for host in (1, 2):
            subprocess.run(["ip", "netns", "del", namespace(host)], capture_output=True)
