"""Two hosts, as network namespaces with a cable between them and ssh: training across it, and what follows when it breaks."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.launch.test_slurm import TINY, reported_steps
from tests.launching import Finished, Running, command_line, result_of

LAUNCH = Path(__file__).parents[2] / "launch"
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin")
_HOSTS = "127.0.0.1 localhost\n10.99.0.1 host1\n10.99.0.2 host2\n"


def missing() -> str | None:
    """What this machine lacks to be two hosts."""
    lacking = [name for name in ("ip", "unshare", "ssh", "ssh-keygen") if shutil.which(name) is None] + ["sshd"] * (not SSHD)
    if os.geteuid() != 0 or lacking:
        return f"needs root, iproute2 and openssh-server (missing: {', '.join(lacking) or 'root'})"
    tried = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"needs the right to make namespaces ({tried.stderr.strip()})"


pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


def namespace(host: int) -> str:
    """Its name on this machine, where other tests may run as well."""
    return f"vggdist{os.getpid()}-{host}"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def on(host: int, folder: Path, *command: str) -> list[str]:
    """A command as run on a host, which has its own name, interfaces and ``/etc/hosts``."""
    own = f'hostname host{host}; mount --bind {folder}/hosts /etc/hosts; exec "$@"'
    return ["ip", "netns", "exec", namespace(host), "unshare", "-u", "-m", "sh", "-c", own, "sh", *command]


@pytest.fixture(scope="module")
def wires(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of the two hosts' ssh; they are gone afterwards."""
    folder = tmp_path_factory.mktemp("hosts")
    (folder / "hosts").write_text(_HOSTS)
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
        ip("link", "add", "wire", "netns", namespace(1), "type", "veth", "peer", "name", "wire", "netns", namespace(2))
        for host in (1, 2):
            ip("-n", namespace(host), "addr", "add", f"10.99.0.{host}/24", "dev", "wire")
            for device in ("lo", "wire"):
                ip("-n", namespace(host), "link", "set", device, "up")
        rights = ["-oStrictModes=no", "-oPermitRootLogin=yes"]
        subprocess.run(on(2, folder, str(SSHD), "-f", "/dev/null", *rights, *files), check=True)
        yield folder
    finally:
        with contextlib.suppress(OSError, ValueError, psutil.Error):
            daemon = psutil.Process(int((folder / "sshd.pid").read_text()))
            for process in [*daemon.children(recursive=True), daemon]:
                process.kill()
        for host in (1, 2):
            subprocess.run(["ip", "netns", "del", namespace(host)], capture_output=True)


def start(way: str, wires: Path, cwd: Path, *flags: str) -> Running:
    """Start a rank on each host."""
    (cwd / "hostfile").write_text("host1 slots=1\nhost2 slots=1\n")
    words = {"gloo": ["hosts.sh", "host1:1,host2:1"], "mpirun": ["mpirun.sh", "2"]}[way]
    path = os.pathsep.join([str(wires / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"HOSTFILE": "hostfile"} if way == "mpirun" else {"INTERFACE": "wire"}
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = on(1, wires, str(LAUNCH / words[0]), *words[1:], *TINY, *flags)
    return Running(command, cwd, 240, PATH=path, **own, **root)


@pytest.fixture(params=["gloo", "mpirun"])
def way(request: pytest.FixtureRequest) -> str:
    if request.param == "mpirun":
        command_line("mpirun", 2)  # skips where there is none
    return str(request.param)


def test_a_run_outlives_a_network_that_broke(way: str, wires: Path, tmp_path: Path) -> None:
    """It trains, ends in time with a message when the link goes down, and continues when it is up again."""
    # mpirun must notice first: keepalive ends only a connection on which nothing is under way, not even the order to end.
    timeout = "60" if way == "mpirun" else "8"
    running = start(way, wires, tmp_path, "--train.steps", "100000", "--run.timeout", timeout)
    running.wait_for(lambda: max(reported_steps(tmp_path), default=0) >= 60)
    ip("-n", namespace(2), "link", "set", "wire", "down")
    try:
        finished: Finished = running.finish()
        assert finished.code != 0, finished.output
        # Told by the watch of either side, for each misses the other; or by mpirun, whose keepalive takes about 10 s.
        assert "no sign of life" in finished.output or "lost communication" in finished.output, finished.output
    finally:
        ip("-n", namespace(2), "link", "set", "wire", "up")
    steps = max(reported_steps(tmp_path)) + 10
    finished = start(way, wires, tmp_path, "--train.steps", str(steps)).finish()
    assert finished.code == 0 and "continuing from the checkpoint at step" in finished.output, finished.output
    assert (result_of(tmp_path)["step"], result_of(tmp_path)["world_size"]) == (steps, 2)
