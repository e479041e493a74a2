"""Ways to send gradients over a network of a given speed, on one machine: ``.venv/bin/python benchmarks/network.py --gbit 1``.

Hosts are network namespaces (``hosts.py``). Each has one rank and a share of this machine's cores. The ways take turns. It
needs the right to make namespaces, which root has outside most containers. Two networks, on synthetic 32-pixel images:

- *vgg11*: VGG-11 with batch normalisation and no hidden layers: 37 MB of gradients, and most of a step is arithmetic.
- *vgg16*: VGG-16 with the classic head: 134 MB of gradients, most of them the hidden layers'.

The ways:

- *alone*: the same number of independent processes: the speed of the cores.
- *one-group*, *buckets*, *factors*, *fp16*, *factors-fp16*: vggdist with the flags of ``WAYS``; *auto*: with its defaults and
  the speed of the network (``train.network_bandwidth``).
- *pytorch-ddp*: ``peers/pytorch_ddp.py``.

The table has for each way: the images/s of all hosts and their ratio to the first way; the bytes that a host sent in a step,
read from its interface, and those that ``plan`` and ``summary`` compute; the time of a step, and the one that ``plan``
predicts from *alone*; and the limit ``max(computation, bytes / bandwidth)`` as a share of the measured step. Other options are
passed to ``vggdist.train``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from hosts import INTERFACE, address, cores_of, hosts, missing, on, sent_by
from measure import AUGMENTATION, DATA, MODEL, ProgramFailed, in_words, machine, reported, started
from run import HERE, PYTORCH, printed_speed

from vggdist.benchmarking.series import Series, in_turn
from vggdist.config.command_line import SettingsParser
from vggdist.config.load import training_settings
from vggdist.config.plan import PlanRequest
from vggdist.planning.job import Job, plan_job
from vggdist.planning.scaling import step_seconds
from vggdist.training.gradient_exchange import GIGABIT

NETWORKS = {"vgg11": MODEL, "vgg16": ("--model.name", "vgg16", "--model.hidden", "[4096,4096]")}
BUCKETS = ("--train.bucket_cap_mb", "1", "--train.factors")
WAYS: dict[str, tuple[str, ...]] = {
    "alone": (),
    "one-group": ("--train.bucket_cap_mb", ".inf", "--train.factors", "never"),
    "buckets": (*BUCKETS, "never"),
    "factors": (*BUCKETS, "always"),
    "fp16": (*BUCKETS, "never", "--train.compression", "fp16"),
    "factors-fp16": (*BUCKETS, "always", "--train.compression", "fp16"),
    "auto": (),
    "pytorch-ddp": (),
}
NOT_OURS = ("alone", "pytorch-ddp")
PAYLOAD = 1448 / 1514  # share of a full Ethernet frame, with TCP's time stamps
LATENCY_US = 100.0  # of a message over the bridge
# Computation that Gloo takes from a rank's only core for each byte sent: chosen so that the plan meets these measurements.
BYTE_COST_NS, COMPRESSED_BYTE_COST_NS = 2.3, 7.0
UNLIMITED_GBIT = 1000.0  # for the plan
DEADLINE_S = 3600.0
SERVER = """
import sys, time
from horovod.runner.common.util.hosts import get_host_assignments, parse_hosts
from horovod.runner.http.http_server import RendezvousServer
server, hosts = RendezvousServer(), parse_hosts(sys.argv[1])
port = server.start()
server.init(get_host_assignments(hosts, len(hosts), len(hosts)))
print(port, flush=True)
time.sleep(100000)
"""


@dataclass(frozen=True)
class Setup:
    """The options of the measurement."""

    hosts: int
    gbit: float | None
    network: str
    batch_size: int
    warmup: int
    steps: int
    pytorch: Path
    flags: tuple[str, ...]

    def flags_of(self, way: str) -> tuple[str, ...]:
        """Flags for ``vggdist.train``."""
        length = ("--train.steps", self.warmup + self.steps, "--run.log_every", self.warmup, "--evaluation.every_epochs", 0)
        size = ("--train.batch_size", self.batch_size)
        speed = ("--train.network_bandwidth", self.gbit) if way == "auto" and self.gbit is not None else ()
        ours = (*NETWORKS[self.network], *DATA, *AUGMENTATION, *size, *length, *WAYS[way], *speed, *self.flags)
        return tuple(map(str, ours))

    def job(self, way: str, alone: float | None = None) -> Job:
        """The plan of a way.

        Args:
            alone: images per second of all hosts without a network.
        """
        known = {"ranks": self.hosts, "ranks_per_host": 1, "network_latency": LATENCY_US, "network_share": PAYLOAD}
        known["network_bandwidth"] = self.gbit or UNLIMITED_GBIT
        known["byte_cost"] = COMPRESSED_BYTE_COST_NS if "fp16" in WAYS[way] else BYTE_COST_NS
        if alone is not None:
            known["images_per_s"] = alone / self.hosts
        words = [word for key, value in known.items() for word in (f"--plan.{key}", str(value))]
        given = SettingsParser("plan", PlanRequest).parse([*self.flags_of(way), *words]).settings
        return plan_job(training_settings(given, PlanRequest))


def run(setup: Setup, way: str) -> tuple[float, float | None]:
    """Run a way once; returns images per second of all hosts, and the bytes that the first host sent in a step.

    Raises:
        ProgramFailed: it failed, or exceeded the deadline.
    """
    with tempfile.TemporaryDirectory(prefix="network-") as folder, contextlib.ExitStack() as stack:
        places = [Path(folder) / str(host) for host in range(1, setup.hosts + 1)]
        port = None if way in NOT_OURS else serve(setup.hosts, Path(folder) / "server", stack)
        jobs = []
        for host, place in enumerate(places, start=1):
            command, environment = program(setup, way, host, port)
            jobs.append(stack.enter_context(started((*on(host, setup.hosts), *command), place, environment)))
        try:
            sent = watch(jobs, places[0])
            if way == "pytorch-ddp":
                return printed_speed(places[0], setup.job(way).layers), sent
            return (sum(map(reported, places)), None) if way == "alone" else (reported(places[0]), sent)
        except (OSError, ValueError, LookupError, psutil.Error) as error:
            outputs = "\n".join((place / "output.txt").read_text(errors="replace") for place in places)
            raise ProgramFailed(f"{way} failed ({type(error).__name__}: {error}):\n{outputs}") from None


def serve(count: int, place: Path, stack: contextlib.ExitStack) -> int:
    """Start Horovod's rendezvous server on the first host, until the stack is closed; returns its port."""
    listed = ",".join(f"{address(host)}:1" for host in range(1, count + 1))
    stack.enter_context(started((*on(1, count), sys.executable, "-c", SERVER, listed), place))
    until = time.monotonic() + 60
    while not (text := (place / "output.txt").read_text().strip()) and time.monotonic() < until:
        time.sleep(0.05)
    return int(text)


def program(setup: Setup, way: str, host: int, port: int | None) -> tuple[tuple[str, ...], str]:
    """Command and environment of the rank of a host.

    Args:
        port: of Horovod's rendezvous server on the first host.
    """
    rank, threads = host - 1, f"OMP_NUM_THREADS={len(cores_of(host, setup.hosts))}"
    if way == "pytorch-ddp":
        length = ("--batch-size", setup.batch_size, "--warmup", setup.warmup, "--steps", setup.steps)
        words = (setup.pytorch, HERE / "peers" / "pytorch_ddp.py", "--network", setup.network, *length)
        found = f"MASTER_ADDR={address(1)} MASTER_PORT=29500 RANK={rank} WORLD_SIZE={setup.hosts}"
        return tuple(map(str, words)), f"{threads} GLOO_SOCKET_IFNAME={INTERFACE} {found}"
    command = (sys.executable, "-m", "vggdist.train", *setup.flags_of(way))
    if port is None:
        return command, threads
    gloo: dict[str, object] = {"CONTROLLER": "gloo", "CPU_OPERATIONS": "gloo", "GLOO_IFACE": INTERFACE}
    gloo |= {"GLOO_RENDEZVOUS_ADDR": address(1), "GLOO_RENDEZVOUS_PORT": port, "HOSTNAME": address(host)}
    gloo |= {
        "RANK": rank,
        "SIZE": setup.hosts,
        "CROSS_RANK": rank,
        "CROSS_SIZE": setup.hosts,
        "LOCAL_RANK": 0,
        "LOCAL_SIZE": 1,
    }
    return command, " ".join([threads, *(f"HOROVOD_{key}={value}" for key, value in gloo.items())])


def watch(jobs: Sequence[subprocess.Popen[bytes]], place: Path) -> float | None:
    """Wait until all processes end; returns the bytes that the first host sent in a step after the warm-up.

    Raises:
        ValueError: one of them failed.
        TimeoutError: the deadline was exceeded.
    """
    until, counts = time.monotonic() + DEADLINE_S, [(0, 0)]
    while any(job.poll() is None for job in jobs):
        if time.monotonic() > until:
            raise TimeoutError(f"still running after {DEADLINE_S:g} s")
        if code := next((job.returncode for job in jobs if job.returncode), None):
            raise ValueError(f"a rank ended with {code}")
        if (steps := reported_steps(place)) > counts[-1][0]:
            with contextlib.suppress(OSError, StopIteration):  # it has just ended
                counts.append((steps, sent_by(jobs[0].pid)))
        time.sleep(0.01)
    if code := next((job.returncode for job in jobs if job.returncode), None):
        raise ValueError(f"a rank ended with {code}")
    if len(counts) < 3:
        return None
    (first, before), (last, after) = counts[1], counts[-1]
    return (after - before) / (last - first)


def reported_steps(place: Path) -> int:
    """The newest step that a run has reported, vggdist's or a peer's."""
    for path in place.glob("runs/*/metrics.jsonl"):
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return max((json.loads(line)["step"] for line in lines if "throughput" in line), default=0)
    lines = (place / "output.txt").read_text().splitlines()
    return max((int(line.split()[1]) for line in lines if line.startswith("steps ")), default=0)


@dataclass(frozen=True)
class Row:
    """What was measured and predicted of a way; None where nothing was."""

    images_per_s: Series
    ratio: Series
    sent: Series | None
    planned: float | None
    step_s: float
    predicted_s: float | None
    of_limit: float | None

    def __str__(self) -> str:
        def cell(value: float | None, unit: float = 1) -> str:
            return "-" if value is None else f"{value / unit:.3f}"

        sent = self.sent.median if self.sent is not None else None
        cells = (cell(sent, 1e6), cell(self.planned, 1e6), cell(self.step_s), cell(self.predicted_s), cell(self.of_limit))
        return f"{self.images_per_s!s:<24} {self.ratio!s:<24}{''.join(f'{one:>10}' for one in cells)}"

    def as_json(self) -> dict[str, object]:
        """Values for a JSON file."""
        return {name: value.as_json() if isinstance(value, Series) else value for name, value in vars(self).items()}


def row(setup: Setup, way: str, speeds: Mapping[str, Series], first: str, sent: Sequence[float]) -> Row:
    """The measurements of a way, and predictions from *alone* if that was measured."""
    speed = speeds[way]
    step_s = setup.hosts * setup.batch_size / speed.median
    planned = predicted = of_limit = None
    if way not in NOT_OURS:
        job = setup.job(way, speeds["alone"].median if "alone" in speeds else None)
        workload = job.on(setup.hosts)
        if workload is not None:
            planned = job.sent_bytes(workload.exchange.factored)
            predicted = step_seconds(workload, job.cluster, "ring", setup.hosts)
            of_limit = max(workload.seconds, planned / (setup.gbit * GIGABIT) if setup.gbit else 0) / step_s
    return Row(speed, speed.over(speeds[first]), Series(sent) if sent else None, planned, step_s, predicted, of_limit)


def arguments() -> tuple[argparse.Namespace, Setup]:
    """Parse the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form, allow_abbrev=False)
    usual = [way for way in WAYS if way != "pytorch-ddp"]
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"default: {', '.join(usual)}")
    parser.add_argument("--hosts", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--gbit", type=float, help="Gbit/s of each link; without it there is no limit")
    parser.add_argument("--network", choices=NETWORKS, default="vgg11", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="of a rank (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=4, help="steps before those that count (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=12, help="steps that count (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--pytorch", type=Path, default=PYTORCH, help="Python that has PyTorch (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    options, flags = parser.parse_known_args()
    options.ways = options.ways or usual
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(WAYS)}")
    if options.hosts < 2:
        parser.error("a network has two hosts at least")
    given = {name: getattr(options, name) for name in Setup.__annotations__ if name != "flags"}
    return options, Setup(**given, flags=tuple(flags))


def main() -> None:
    """Measure, print a table, and write the figures where ``--json`` says."""
    options, setup = arguments()
    if (why := missing()) is not None:
        sys.exit(f"this machine cannot be several hosts: {why}")
    found, sent = machine(), dict[str, list[float]]()

    def measured(way: str) -> float:
        speed, bytes_sent = run(setup, way)
        sent.setdefault(way, []).extend([] if bytes_sent is None else [bytes_sent])
        print(f"{way} {speed:.1f} images/s", file=sys.stderr, flush=True)
        return speed

    try:
        with hosts(setup.hosts, setup.gbit):
            speeds = in_turn({way: partial(measured, way) for way in options.ways}, options.repeats)
    except ProgramFailed as failure:
        sys.exit(str(failure))
    link = "no limit" if setup.gbit is None else f"{setup.gbit:g} Gbit/s"
    print(f"{in_words(found)}\n{setup.hosts} hosts, {link}, {setup.network}, {setup.batch_size} a rank, n = {options.repeats}")
    titles = ("MB sent", "planned", "step, s", "plan, s", "of limit")
    print(f"{'way':<13}{'images/s':<25}{'ratio':<24}{''.join(f'{title:>10}' for title in titles)}")
    rows = {way: row(setup, way, speeds, options.ways[0], sent[way]) for way in options.ways}
    print("\n".join(f"{way:<13}{one}" for way, one in rows.items()))
    if options.json:
        figures = {"machine": found, "setup": {**vars(setup), "pytorch": str(setup.pytorch)}}
        options.json.write_text(
            json.dumps({**figures, "ways": {way: one.as_json() for way, one in rows.items()}}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
