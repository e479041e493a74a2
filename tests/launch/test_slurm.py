"""The scripts of ``launch/slurm`` on a real SLURM of two virtual nodes: each way in, each way out.

The jobs of a fixture are submitted at once and queue for the nodes, which have room for two small ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.launch.cluster import PROJECT, Cluster, Job, missing, running
from tests.launch.test_scripts import DOCUMENTED
from tests.launching import NO_MPI, has_mpi, result_of, train

TINY = (
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--train.global_batch_size", "24"),
    *("--run.log_every", "5"),
    *("--evaluation.every_epochs", "0"),
    *("--checkpoint.every_steps", "50"),
    *("--run.drift_steps", "10"),  # the ranks compare their parameters
    *("--train.factors", "always"),  # auto would, by the number of hosts: other last bits
)
TWO_RANKS = ("--nodes=2", "--gpus-per-node=1")
FOUR_RANKS = ("--nodes=2", "--gpus-per-node=2")
WAYS = ("gloo", "pmix", "mpirun")
COMMANDS = [line for line in DOCUMENTED if "sbatch" in line]
ENDLESS = 100_000  # steps: an hour
SAVED, CONTINUED = r"stopped by .*; step (\d+) is saved", r"continuing from the checkpoint at step (\d+)"

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
    pytest.mark.timeout(900),
]
Jobs = dict[str, Job]
Act = tuple[Callable[[Job], bool], Callable[[Job], object]]
"""Whether a job is ready for something, and what that is."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes folders that look like the project's to their user."""

    def new_folder() -> Path:
        folder = tmp_path_factory.mktemp("job")
        for name in ("launch", "configs"):
            (folder / name).symlink_to(PROJECT / name)
        return folder

    return new_folder


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """Each way in that this machine has."""
    if request.param not in possible_ways():
        pytest.skip(NO_MPI)
    return str(request.param)


def possible_ways() -> tuple[str, ...]:
    return WAYS if has_mpi() else WAYS[:1]


def training(cluster: Cluster, folder: Path, script: str, steps: int, *options: str, **environment: str) -> Job:
    """Submit one of the project's scripts with a small network."""
    arguments = (*TINY, "--train.steps", str(steps))
    return cluster.submit(folder, f"launch/slurm/{script}.sh", *options, arguments=arguments, **environment)


def own(cluster: Cluster, folder: Path, text: str, *options: str, **environment: Any) -> Job:
    """Submit a batch script of a test's own."""
    (folder / "own.sh").write_text(f"#!/usr/bin/env bash\n{text}\n")
    return cluster.submit(folder, "own.sh", *options, **environment)


def documented(cluster: Cluster, folder: Path, command: str) -> Job:
    """A command as it stands; what its user edits in the script's head comes by the environment, and it is cut short."""
    edited: dict[str, Any] = {"ACCOUNT": "test", "PARTITION": "main", "GPUS_PER_NODE": "1", "OUTPUT": "job-%A-%a.log"}
    if "one_node" in command:
        edited["GPUS_PER_NODE"] = "2"
    cut = " ".join(f"'{word}'" for word in (*TINY, "--train.steps", "20"))
    printed = cluster.run("bash", "-c", f"{command} {cut}", folder=folder, **{f"SBATCH_{key}": edited[key] for key in edited})
    return Job(cluster, folder, printed.split()[-1])


def array(cluster: Cluster, folder: Path) -> Job:
    """The array with two small configurations."""
    script = (PROJECT / "launch" / "slurm" / "array.sh").read_text()
    edited = script.replace("configs/quickstart.yaml configs/cifar10_vgg11bn.yaml", "one.yaml two.yaml")
    assert edited != script
    (folder / "array.sh").write_text(edited)
    for name, rate in (("one", "0.01"), ("two", "0.02")):
        (folder / f"{name}.yaml").write_text(
            f"run: {{name: {name}}}\noptimizer: {{learning_rate: {rate}}}\ntrain: {{steps: 5}}\n"
            "model: {name: custom, stages: [[1, 8]], hidden: []}\n"
        )
    return cluster.submit(folder, "array.sh", "--gpus-per-node=1")


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, new_folder: Callable[[], Path]) -> Jobs:
    """All jobs that end by themselves, and the way where they are tried in each."""
    found = {
        command: documented(cluster, new_folder(), command)
        for command in COMMANDS
        if has_mpi() or "pmix" not in command and "mpirun" not in command
    }
    fault = json.dumps({"flags": [*TINY, "--train.steps", "120"], "fault": "error in a step", "rank": 1})
    local_rank = "${OMPI_COMM_WORLD_LOCAL_RANK:-$SLURM_LOCALID}"
    texts = {
        "error": f"python -m tests.ranks.work --fault '{fault}'",
        "doctor": "python -m vggdist.doctor",
        "gpus": f"""bash -c 'echo "$SLURMD_NODENAME {local_rank} of $CUDA_VISIBLE_DEVICES"'""",
    }
    for way in possible_ways():
        for name, text in texts.items():
            ranks = FOUR_RANKS if name == "gpus" else TWO_RANKS
            text = f". launch/slurm/common.sh\nlaunch {text}"
            found[f"{name} {way}"] = own(cluster, new_folder(), text, *ranks, "--ntasks-per-gpu=1", VGGDIST_LAUNCH=way)
    found["unconnected"] = own(cluster, new_folder(), "srun --mpi=none python -m vggdist.train", "--nodes=2", "--ntasks=2")
    found["unknown way"] = training(cluster, new_folder(), "one_node", 5, "--gpus-per-node=1", VGGDIST_LAUNCH="ssh")
    found["array"] = array(cluster, new_folder())
    return found


def ended(job: Job) -> int:
    """The exit code of a job that has many others before it."""
    return job.finish()


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
    reports = [json.loads(line) for line in lines if line.endswith("\n")]
    return [line["step"] for line in reports if "train/loss" in line]


def interrupted(waiting: Jobs, *acts: Act) -> Jobs:
    """Do one thing after the other to each of some jobs, each as soon as the job is ready for it."""
    left = {job: [*acts] for job in waiting.values()}

    def all_interrupted() -> bool:
        for job, due in left.items():
            if due and due[0][0](job):
                due.pop(0)[1](job)
        return not any(left.values())

    [*left][-1].wait_for(all_interrupted)
    return waiting


def has_begun(job: Job, steps: int = 20) -> bool:
    """Whether it has made some steps."""
    return max(reported_steps(job.folder), default=0) >= steps


def has_continued(job: Job) -> bool:
    """Whether it has made some steps since it was started again."""
    step = step_of(CONTINUED, job.log)
    return step is not None and has_begun(job, step + 20)


def step_of(pattern: str, text: str) -> int | None:
    found = re.search(pattern, text)
    return int(found[1]) if found else None


def announce_the_end(job: Job) -> None:
    """As SLURM does by ``--signal=B:USR1@120``."""
    job.cluster.run("scancel", "--batch", "--signal=USR1", job.number)


def cancel(job: Job) -> None:
    job.cluster.run("scancel", job.number)


def kill_rank_1(job: Job) -> None:
    for process in psutil.process_iter(["cmdline", "environ"]):
        place = process.info["environ"] or {}
        rank = place.get("OMPI_COMM_WORLD_RANK") or place.get("SLURM_PROCID")
        if place.get("SLURM_CONF") == job.cluster.environment["SLURM_CONF"] and place.get("SLURM_JOB_ID") == job.number:
            if rank == "1" and process.info["cmdline"][1:3] == ["-m", "vggdist.train"]:
                process.kill()


def in_each_way(cluster: Cluster, new_folder: Callable[[], Path], script: str, ranks: tuple[str, ...]) -> Jobs:
    return {way: training(cluster, new_folder(), script, ENDLESS, *ranks, VGGDIST_LAUNCH=way) for way in possible_ways()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_on_clusters_computes_what_two_ranks_compute_without_slurm(
    command: str, jobs: Jobs, plain_run: dict[str, Any]
) -> None:
    if command not in jobs:
        pytest.skip(NO_MPI)
    job = jobs[command]
    assert ended(job) == 0, job.log
    result = result_of(job.folder)
    assert result["sha256"] == plain_run["sha256"]
    assert (result["world_size"], result["controller"]) == (2, "Gloo" if command.startswith("sbatch") else "MPI")
    nodes = "node[1-2]" if "one_node" not in command else result["job"]["slurm"]["nodes"]
    assert result["job"]["slurm"] == {"job": job.number, "nodes": nodes, "restarts": 0}
    assert "Exception" not in job.log and "srun: error" not in job.log, job.log


def test_each_rank_sees_all_gpus_of_its_node_and_takes_its_own(way: str, jobs: Jobs) -> None:
    job = jobs[f"gpus {way}"]
    assert ended(job) == 0, job.log
    assert sorted(job.log.split("\n")) == ["", *(f"node{node} {rank} of 0,1" for node in (1, 2) for rank in (0, 1))]


def test_the_doctor_finds_the_place_sound(way: str, jobs: Jobs) -> None:
    job = jobs[f"doctor {way}"]
    assert ended(job) == 0, job.log
    name, controller = ("mpirun" if way == "mpirun" else "srun"), ("Gloo" if way == "gloo" else "MPI")
    assert f"2 rank(s) from {name}, controller {controller}" in job.log and "allreduce: right" in job.log


def test_an_error_on_one_rank_ends_the_job_with_its_message_in_the_log(way: str, jobs: Jobs) -> None:
    job = jobs[f"error {way}"]
    assert ended(job) == 1, job.log
    assert "rank 1: ZeroDivisionError: a bug" in job.log
    assert result_of(job.folder)["error"].startswith("rank 1: ZeroDivisionError: a bug\nTraceback")


def test_an_array_trains_each_configuration(jobs: Jobs) -> None:
    job = jobs["array"]
    assert ended(job) == 0, job.log
    results = [result_of(job.folder, name) for name in ("one", "two")]
    assert [result["exit_code"] for result in results] == [0, 0], job.log
    assert [result["job"]["slurm"]["array_task"] for result in results] == [f"{job.number}_0", f"{job.number}_1"]


def test_ranks_that_cannot_find_each_other_fail_with_one_message(jobs: Jobs) -> None:
    job = jobs["unconnected"]
    assert ended(job) == 2, job.log
    assert job.log.count("srun started 2 processes, but Horovod connects 1") == 1


def test_an_unknown_way_is_refused(jobs: Jobs) -> None:
    job = jobs["unknown way"]
    assert ended(job) == 2
    assert "VGGDIST_LAUNCH is 'ssh'; expected gloo, pmix or mpirun" in job.log


@pytest.fixture(scope="module")
def preempted(cluster: Cluster, new_folder: Callable[[], Path]) -> Jobs:
    """Jobs of which SLURM announces the end, and which are cancelled when they have continued."""
    jobs = in_each_way(cluster, new_folder, "preemptible", TWO_RANKS)
    return interrupted(jobs, (has_begun, announce_the_end), (has_continued, cancel))


def test_a_preempted_job_queues_again_and_continues_at_the_next_step(way: str, preempted: Jobs) -> None:
    """Which its script does only where its ranks have ended with code 75."""
    job = preempted[way]
    ended(job)
    assert job.shown()["Restarts"] == "1", job.log
    assert "stopped by SIGUSR1 on " in job.log and step_of(SAVED, job.log) == step_of(CONTINUED, job.log), job.log
    log = (job.folder / "runs" / "quickstart" / "log.txt").read_text()
    assert "restarts 0" in log and "restarts 1" in log
    steps = reported_steps(job.folder)
    assert steps == list(range(5, steps[-1] + 1, 5))


def test_a_job_that_is_cancelled_has_saved_a_checkpoint_and_does_not_queue_again(way: str, preempted: Jobs) -> None:
    job = preempted[way]
    ended(job)
    assert job.states() == ["CANCELLED"] and job.shown()["Restarts"] == "1"
    continued = step_of(CONTINUED, job.log) or 0
    job.wait_for(lambda: (step_of(SAVED, str(result_of(job.folder).get("error"))) or 0) > continued)
    assert result_of(job.folder)["exit_code"] == 75


@pytest.mark.parametrize("through", ["gloo", pytest.param("mpirun", marks=pytest.mark.slow)])
def test_a_job_that_must_make_room_continues_when_the_urgent_one_is_over(
    through: str, cluster: Cluster, new_folder: Callable[[], Path]
) -> None:
    """SLURM sends SIGTERM to the ranks, and would not queue a job again that ends within the partition's GraceTime."""
    if through not in possible_ways():
        pytest.skip(NO_MPI)
    job = training(cluster, new_folder(), "preemptible", ENDLESS, *TWO_RANKS, VGGDIST_LAUNCH=through)
    urgent = ("--partition=urgent", "--nodes=2", "--exclusive")
    interrupted({through: job}, (has_begun, lambda job: own(cluster, new_folder(), "sleep 1", *urgent)))
    job.wait_for(lambda: "continuing from the checkpoint at step" in job.log)
    assert "restarts 1" in job.log and job.shown()["Restarts"] == "1"
    cluster.run("scancel", job.number)
    job.finish()
    assert job.states() == ["CANCELLED"] and job.log.count("restarts") == 2, job.log


@pytest.fixture(scope="module")
def killed(cluster: Cluster, new_folder: Callable[[], Path]) -> Jobs:
    jobs = in_each_way(cluster, new_folder, "several_nodes", FOUR_RANKS)
    return interrupted(jobs, (has_begun, kill_rank_1))


def test_four_ranks_on_two_nodes_hold_the_same_network(way: str, killed: Jobs) -> None:
    """A difference would have ended the run at the first comparison, before the rank is killed."""
    job = killed[way]
    ended(job)
    assert "quickstart: 4 rank(s), " in job.log and has_begun(job), job.log
    assert "differs from rank" not in job.log


def test_a_rank_that_is_killed_ends_the_job_and_is_named(way: str, killed: Jobs) -> None:
    job = killed[way]
    assert ended(job) != 0
    assert "rank 1 (" in job.log and "is lost" in job.log


@pytest.mark.slow
def test_a_job_whose_time_runs_out_saves_and_ends_with_code_75_or_continues(
    cluster: Cluster, new_folder: Callable[[], Path]
) -> None:
    """SLURM's own announcement: of the two minutes of each life, one is left when it comes."""
    limit = (*TWO_RANKS, "--time=00:02:00", "--signal=B:USR1@60")
    once = training(cluster, new_folder(), "several_nodes", ENDLESS, *limit)
    again = training(cluster, new_folder(), "preemptible", ENDLESS, *limit)
    assert once.finish() == 75, once.log
    assert re.search(r"step \d+ is saved", result_of(once.folder)["error"])
    again.wait_for(lambda: "continuing from the checkpoint" in again.log)
    saved = re.search(r"stopped by SIGUSR1 on .*; step (\d+) is saved", again.log)
    assert saved and f"continuing from the checkpoint at step {saved[1]}" in again.log, again.log
    cluster.run("scancel", again.number)
    again.finish()
