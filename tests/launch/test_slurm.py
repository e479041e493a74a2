"""The scripts of ``launch/slurm`` on a real SLURM of two virtual nodes: each way in, each way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.launch.cluster import PROJECT, Cluster, Job, missing, running
from tests.launch.test_scripts import DOCUMENTED
from tests.launching import command_line, result_of, train
from vggdist.checkpoints.store import CheckpointStore

TINY = (
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--train.global_batch_size", "24"),
    *("--run.log_every", "5"),
    *("--evaluation.every_epochs", "0"),
    *("--checkpoint.every_steps", "50"),
)
TWO_RANKS = ("--nodes=2", "--gpus-per-node=1")
FOUR_RANKS = ("--nodes=2", "--gpus-per-node=2")

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("jobs")
    with running(tmp_path_factory.mktemp("slurm"), folder) as cluster:
        yield cluster


@pytest.fixture
def cluster(daemons: Cluster, tmp_path: Path) -> Cluster:
    """The cluster, with a folder of its own that looks like the project's to its user."""
    for name in ("launch", "configs"):
        (tmp_path / name).symlink_to(PROJECT / name)
    daemons.folder = tmp_path
    return daemons


@pytest.fixture(params=["gloo", "pmix", "mpirun"])
def way(request: pytest.FixtureRequest) -> str:
    """Each way in that this machine has."""
    if request.param != "gloo":
        command_line("mpirun", 2)  # skips where there is no MPI
    return str(request.param)


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of two ranks without SLURM."""
    folder = tmp_path_factory.mktemp("plain")
    finished = train("horovodrun --gloo", 2, folder, *TINY, "--train.steps", "20")
    assert finished.code == 0, finished.output
    return result_of(folder)


def reported_steps(folder: Path) -> list[int]:
    """The steps that a run has reported its training metrics at."""
    path = folder / "runs" / "quickstart" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    told = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["step"] for line in told if "train/loss" in line]


def newest_step(folder: Path) -> int:
    found = CheckpointStore(folder / "runs" / "quickstart" / "checkpoints").newest()
    assert found is not None
    return int(found.state["step"])


def started(cluster: Cluster, way: str, script: str, steps: int) -> Job:
    """A job of two ranks that has made some steps."""
    job = cluster.submit(script, *TWO_RANKS, arguments=(*TINY, "--train.steps", str(steps)), VGGDIST_LAUNCH=way)
    job.wait_for(lambda: max(reported_steps(cluster.folder), default=0) >= 20)
    return job


def written(cluster: Cluster, text: str) -> str:
    """A batch script of a test's own."""
    (cluster.folder / "own.sh").write_text(f"#!/usr/bin/env bash\n{text}\n")
    return "own.sh"


def test_two_ranks_on_two_nodes_compute_what_they_compute_without_slurm(
    way: str, cluster: Cluster, plain_run: dict[str, Any]
) -> None:
    arguments = (*TINY, "--train.steps", "20")
    job = cluster.submit("launch/slurm/several_nodes.sh", *TWO_RANKS, arguments=arguments, VGGDIST_LAUNCH=way)
    assert job.finish() == 0, job.log
    result = result_of(cluster.folder)
    assert result["sha256"] == plain_run["sha256"]
    assert (result["world_size"], result["controller"]) == (2, "Gloo" if way == "gloo" else "MPI")
    assert result["slurm"] == {"job": job.number, "nodes": "node[1-2]", "restarts": 0}
    assert "Exception" not in job.log and "srun: error" not in job.log, job.log


def test_four_ranks_on_two_nodes_hold_the_same_network(way: str, cluster: Cluster) -> None:
    """Which the ranks compare themselves at the end of each epoch and of the run."""
    arguments = (*TINY, "--train.steps", "10")
    job = cluster.submit("launch/slurm/several_nodes.sh", *FOUR_RANKS, arguments=arguments, VGGDIST_LAUNCH=way)
    assert job.finish() == 0, job.log
    assert result_of(cluster.folder)["world_size"] == 4


@pytest.mark.parametrize("command", [line for line in DOCUMENTED if "sbatch" in line])
def test_a_command_of_the_page_on_clusters_runs(command: str, cluster: Cluster) -> None:
    """As it stands; what its user edits in the script's head comes by the environment, and the training is cut short."""
    if "pmix" in command or "mpirun" in command:
        command_line("mpirun", 2)
    edited = {"ACCOUNT": "test", "PARTITION": "main", "GPUS_PER_NODE": "1", "OUTPUT": "job-%A-%a.log"}
    environment = {f"SBATCH_{name}": value for name, value in edited.items()}
    told = cluster.run("bash", "-c", f"{command} --train.steps 3", **environment)
    job = Job(cluster, told.split()[-1])
    assert job.finish() == 0, job.log
    assert result_of(cluster.folder)["step"] == 3


def test_one_node_takes_a_rank_for_each_of_its_gpus(cluster: Cluster, plain_run: dict[str, Any]) -> None:
    job = cluster.submit("launch/slurm/one_node.sh", "--gpus-per-node=2", arguments=(*TINY, "--train.steps", "20"))
    assert job.finish() == 0, job.log
    assert result_of(cluster.folder)["sha256"] == plain_run["sha256"]


def test_each_rank_sees_all_gpus_of_its_node_and_takes_its_own(way: str, cluster: Cluster) -> None:
    local_rank = "${OMPI_COMM_WORLD_LOCAL_RANK:-$SLURM_LOCALID}"
    script = written(
        cluster,
        f""". launch/slurm/common.sh\nlaunch bash -c 'echo "$SLURMD_NODENAME {local_rank} of $CUDA_VISIBLE_DEVICES"'""",
    )
    job = cluster.submit(script, *FOUR_RANKS, "--ntasks-per-gpu=1", VGGDIST_LAUNCH=way)
    assert job.finish() == 0, job.log
    assert sorted(job.log.split("\n")) == ["", *(f"node{node} {rank} of 0,1" for node in (1, 2) for rank in (0, 1))]


def test_the_doctor_finds_the_place_sound(way: str, cluster: Cluster) -> None:
    script = written(cluster, ". launch/slurm/common.sh\nlaunch python -m vggdist.doctor")
    job = cluster.submit(script, *TWO_RANKS, "--ntasks-per-gpu=1", VGGDIST_LAUNCH=way)
    assert job.finish() == 0, job.log
    name, controller = ("mpirun" if way == "mpirun" else "srun"), ("Gloo" if way == "gloo" else "MPI")
    assert f"2 rank(s) from {name}, controller {controller}" in job.log and "allreduce: right" in job.log


def test_a_preempted_job_queues_again_and_continues_at_the_next_step(way: str, cluster: Cluster) -> None:
    job = started(cluster, way, "launch/slurm/preemptible.sh", steps=400)
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)  # what SLURM does by --signal=B:USR1@120
    job.wait_for(lambda: job.shown()["Restarts"] == "1")
    stopped_at = newest_step(cluster.folder)
    assert job.finish(deadline=90) == 0, job.log
    result = result_of(cluster.folder)
    assert (result["step"], result["slurm"]["restarts"]) == (400, 1)
    assert "stopped by SIGUSR1 on " in job.log and f"continuing from the checkpoint at step {stopped_at}" in job.log
    log = (cluster.folder / "runs" / "quickstart" / "log.txt").read_text()
    assert "restarts 0" in log and "restarts 1" in log
    assert reported_steps(cluster.folder) == list(range(5, 401, 5))


def test_a_job_that_is_cancelled_has_saved_a_checkpoint(way: str, cluster: Cluster) -> None:
    job = started(cluster, way, "launch/slurm/several_nodes.sh", steps=100_000)
    cluster.run("scancel", job.number)
    job.finish()
    job.wait_for(lambda: result_of(cluster.folder)["exit_code"] == 75)
    assert f"step {newest_step(cluster.folder)} is saved" in result_of(cluster.folder)["error"]


def test_a_job_whose_time_is_nearly_over_ends_with_code_75(way: str, cluster: Cluster) -> None:
    """What a launcher does when the first rank ends must not hide the code."""
    job = started(cluster, way, "launch/slurm/several_nodes.sh", steps=100_000)
    cluster.run("scancel", "--batch", "--signal=USR1", job.number)
    assert job.finish() == 75, job.log
    assert f"step {newest_step(cluster.folder)} is saved" in result_of(cluster.folder)["error"]


def test_an_array_trains_each_configuration(cluster: Cluster) -> None:
    script = (PROJECT / "launch" / "slurm" / "array.sh").read_text()
    edited = script.replace("configs/quickstart.yaml configs/cifar10_vgg11bn.yaml", "one.yaml two.yaml")
    assert edited != script
    (cluster.folder / "array.sh").write_text(edited)
    for name, rate in (("one", "0.01"), ("two", "0.02")):
        (cluster.folder / f"{name}.yaml").write_text(
            f"run: {{name: {name}}}\noptimizer: {{learning_rate: {rate}}}\ntrain: {{steps: 5}}\n"
            "model: {name: custom, stages: [[1, 8]], hidden: []}\n"
        )
    job = cluster.submit("array.sh", "--gpus-per-node=1")
    assert job.finish() == 0, job.log
    assert [result_of(cluster.folder, name)["exit_code"] for name in ("one", "two")] == [0, 0], job.log
    assert [result_of(cluster.folder, name)["slurm"]["array_task"] for name in ("one", "two")] == [
        f"{job.number}_0",
        f"{job.number}_1",
    ]


def test_an_error_on_one_rank_ends_the_job_with_its_message_in_the_log(way: str, cluster: Cluster) -> None:
    fault = json.dumps({"flags": [*TINY, "--train.steps", "120"], "fault": "error in a step", "rank": 1})
    work = f"launch python -m tests.ranks.work training_with_a_fault '{fault}' ."
    script = written(cluster, f". launch/slurm/common.sh\n{work}")
    job = cluster.submit(script, *TWO_RANKS, "--ntasks-per-gpu=1", VGGDIST_LAUNCH=way)
    assert job.finish() == 1, job.log
    assert "rank 1: ZeroDivisionError: a bug" in job.log
    assert result_of(cluster.folder)["error"].startswith("rank 1: ZeroDivisionError: a bug\nTraceback")


def test_a_rank_that_is_killed_ends_the_job_and_is_named(way: str, cluster: Cluster) -> None:
    job = started(cluster, way, "launch/slurm/several_nodes.sh", steps=100_000)
    for process in psutil.process_iter(["cmdline", "environ"]):
        place = process.info["environ"] or {}
        rank = place.get("OMPI_COMM_WORLD_RANK") or place.get("SLURM_PROCID")
        if place.get("SLURM_CONF") == cluster.environment["SLURM_CONF"] and rank == "1":
            if process.info["cmdline"][1:3] == ["-m", "vggdist.train"]:
                process.kill()
    assert job.finish() != 0
    assert "rank 1 (" in job.log and "is gone" in job.log


def test_ranks_that_cannot_find_each_other_are_told_so_once(cluster: Cluster) -> None:
    job = cluster.submit(written(cluster, "srun --mpi=none python -m vggdist.train"), "--nodes=2", "--ntasks=2")
    assert job.finish() == 2, job.log
    assert job.log.count("srun started 2 processes, but Horovod connects 1") == 1
    assert result_of(cluster.folder)["exit_code"] == 2


def test_an_unknown_way_is_refused(cluster: Cluster) -> None:
    job = cluster.submit("launch/slurm/one_node.sh", "--gpus-per-node=1", VGGDIST_LAUNCH="ssh")
    assert job.finish() == 2
    assert "VGGDIST_LAUNCH is 'ssh'; expected gloo, pmix or mpirun" in job.log
