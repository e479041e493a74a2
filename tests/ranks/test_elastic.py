"""Ranks die, join and leave, and the training goes on in the processes that are left."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.launching import DEADLINE, Running, result_of
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.load import load
from vggdist.data.dataset import load as load_data
from vggdist.data.sampler import SamplePlan

HOSTS = (
    "localhost",
    "127.0.0.1",
    socket.gethostname(),
)  # three names of this machine: Horovod no longer uses a host on which a worker died
LOG_EVERY = 5
STEPS = 240
FLAGS = [
    *("--run.elastic", "true"),
    *("--run.log_every", str(LOG_EVERY)),
    *("--run.drift_steps", "50"),
    *("--train.factors", "always"),
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--model.batch_norm", "true"),
    *("--train.steps", str(STEPS)),
    *("--train.global_batch_size", "32"),  # three ranks cannot share it evenly
    *("--checkpoint.every_steps", "50"),
]


@dataclass
class Generation:
    """The training between two changes of the ranks: pid of each rank, and the parts taken at each step."""

    began: float
    size: int
    first_step: int
    ranks: dict[int, int] = field(default_factory=dict)
    parts: dict[int, dict[int, list[int]]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def next_step(self) -> int:
        """The step after the last one that any rank handed to its device."""
        return max(self.parts, default=self.first_step - 1) + 1


class Job:
    """An elastic job on some of this machine's three names."""

    def __init__(self, folder: Path, hosts: Sequence[str], *flags: str) -> None:
        self.folder = folder
        self.set_hosts(hosts)
        script = folder / "hosts.sh"
        script.write_text(f"#!/bin/sh\ncat {folder}/hosts\n")
        script.chmod(0o755)
        self.notes = folder / "notes"
        self.notes.mkdir(exist_ok=True)
        launcher = [sys.executable, "-m", "tests.horovodrun", "-np", str(len(hosts)), "--min-np", "1", "--max-np", "3"]
        discovery = ["--network-interface", "lo", "--host-discovery-script", str(script)]
        rank = [sys.executable, "-m", "tests.ranks.elastic_rank", str(self.notes)]
        # A peer's death is seen at once, or after Gloo's timeout; it must also suffice for a new process to come up.
        environment = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "90"}
        self.running = Running([*launcher, *discovery, *rank, *FLAGS, *flags], folder, DEADLINE, **environment)

    def set_hosts(self, hosts: Sequence[str]) -> None:
        """What the discovery script prints from now on."""
        aside = self.folder / "hosts.new"
        aside.write_text("".join(f"{host}:1\n" for host in hosts))
        aside.replace(self.folder / "hosts")

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What all processes noted, in the order of time."""
        lines = [line for path in self.notes.glob("*.jsonl") for line in path.read_text().splitlines(keepends=True)]
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return sorted((one for one in found if one["event"] == kind), key=lambda one: one["time"])

    def generations(self) -> list[Generation]:
        """In their order. A new one begins where a process begins again, or the number of ranks changes."""
        found: list[Generation] = []
        for event in self.events("generation"):
            if not found or event["rank"] in found[-1].ranks or event["size"] != found[-1].size:
                found.append(Generation(event["time"], event["size"], event["first_step"]))
            assert event["first_step"] == found[-1].first_step
            found[-1].ranks[event["rank"]] = event["pid"]
        for event in self.events("step"):
            now = [one for one in found if event["pid"] in one.ranks.values() and one.began <= event["time"] + 1e-3][-1]
            now.parts[event["step"]][event["pid"]] = event["samples"]
        return found

    def wait_for(self, size: int, steps: int = 12) -> Generation:
        """Wait until the newest generation has so many ranks and has made some steps."""

        def there() -> bool:
            newest = self.generations()[-1:]
            return bool(newest) and newest[0].size == size and newest[0].next_step >= newest[0].first_step + steps

        self.running.wait_for(there)
        return self.generations()[-1]

    def finish(self) -> str:
        """Let it run to its end; returns the output."""
        (self.notes / "hurry").touch()
        finished = self.running.finish()
        assert finished.code == 0, finished.output
        result = result_of(self.folder)
        assert (result["exit_code"], result["step"]) == (0, STEPS)
        return finished.output

    def require_every_sample_once(self) -> None:
        """What counts of each generation, the steps until the next one began, is the plan: sample by sample."""
        config = load("train", FLAGS)
        plan = SamplePlan(len(load_data(config.data, 0).train), 32, 1, seed=0)
        generations = self.generations()
        ends = [*(one.first_step for one in generations[1:]), STEPS]
        for generation, end in zip(generations, ends):
            for step in range(generation.first_step, end):
                epoch, step_of_epoch = divmod(step, plan.steps_per_epoch)
                expected, mask = plan.part(plan.order(epoch), step_of_epoch, 0)
                parts = [generation.parts[step][generation.ranks[rank]] for rank in range(generation.size)]
                assert [sample for part in parts for sample in part] == expected[mask > 0].tolist(), step


def test_when_a_rank_hangs_and_one_is_killed_the_others_go_on_from_the_last_commit(tmp_path: Path) -> None:
    job = Job(tmp_path, HOSTS, "--run.timeout", "20")
    first = job.wait_for(size=3, steps=55)  # there is a checkpoint on the disk
    (job.notes / f"hang-{first.ranks[1]}").touch()
    os.kill(job.wait_for(size=2).ranks[0], signal.SIGKILL)  # the one that writes the files
    job.wait_for(size=1)
    output = job.finish()
    three, two, one = job.generations()
    assert [two.ranks[0], two.ranks[1]] == [three.ranks[0], three.ranks[2]], output
    assert one.ranks == {0: two.ranks[1]}, output
    for before, after in ((three, two), (two, one)):
        assert 0 <= before.next_step - after.first_step <= LOG_EVERY + 4, output
    assert job.events("load") == [], "a checkpoint was read"
    assert "rank 1: no progress for" in output and "has made no progress for" in output
    assert "is lost: its process was killed" in output
    job.require_every_sample_once()
    found = CheckpointStore(tmp_path / "runs" / "quickstart" / "checkpoints").newest()
    assert found is not None and found.state["step"] == STEPS
    metrics = (tmp_path / "runs" / "quickstart" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in metrics if "train/loss" in line]
    assert steps == sorted(set(steps)), "a report stands there twice"


def test_hosts_come_and_go_without_a_lost_step(tmp_path: Path) -> None:
    first, second, third = HOSTS
    job = Job(tmp_path, [first, second])
    job.wait_for(size=2)
    job.set_hosts([first, second, third])
    job.wait_for(size=3)
    root = job.generations()[-1].ranks[0]
    job.set_hosts([host for host in HOSTS if host != host_of(root)])
    job.wait_for(size=2)
    output = job.finish()
    one, two, three = job.generations()
    assert two.ranks[0] == one.ranks[0] and two.ranks[1] == one.ranks[1], "the oldest come first"
    assert [three.ranks[0], three.ranks[1]] == [two.ranks[1], two.ranks[2]], "the root's successor is the next"
    assert (two.first_step, three.first_step) == (one.next_step, two.next_step), output
    assert "this process exits: its host is no longer part of the job" in output, output
    job.require_every_sample_once()


def host_of(pid: int) -> str:
    """The name by which the launcher knows the host of a process."""
    words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return next(word.partition("=")[2] for word in words if word.startswith("HOROVOD_HOSTNAME="))
