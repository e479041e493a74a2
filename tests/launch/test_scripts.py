"""The scripts of ``launch/`` for one host and for several, each run as its head says."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.launch.test_train import require_complete
from tests.launching import DEADLINE, Finished, Running, command_line, execute, result_of
from vggdist.environment.cores import parse_cpu_list

PROJECT = Path(__file__).parents[2]
LAUNCH = PROJECT / "launch"
STEPS = ("--train.steps", "3")
DOCUMENTED = [
    line
    for block in re.findall(r"```sh\n(.*?)```", (PROJECT / "docs" / "clusters.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]


ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def script(name: str, *words: str, cwd: Path, **environment: str) -> Finished:
    command = name if name == "bash" else str(LAUNCH / name)
    return execute([command, *words], cwd, DEADLINE, **ENVIRONMENT, **environment)


@pytest.mark.parametrize("command", [line for line in DOCUMENTED if "doctor" not in line and "sbatch" not in line])
def test_a_command_of_the_page_on_clusters_runs(command: str, tmp_path: Path) -> None:
    """Cut short."""
    if "mpi" in command:
        command_line("mpirun", 2)  # skips where there is none
    for name in ("launch", "configs"):
        (tmp_path / name).symlink_to(PROJECT / name)
    finished = script("bash", "-c", " ".join([command, *STEPS]), cwd=tmp_path, HOROVOD_CYCLE_TIME="3")
    assert finished.code == 0, finished.output
    result = result_of(tmp_path)
    require_environment(result["environment"], finished.output)
    assert (result["world_size"], result["controller"]) == (2, "MPI" if "mpi" in command else "Gloo")
    require_complete(tmp_path / "runs" / "quickstart")


def require_environment(reported: dict[str, Any], output: str) -> None:
    """Check that variables and the cores of two ranks are reported, in the log once."""
    assert output.count("environment: preset cpu, OMP_NUM_THREADS 1, ") == 1, output
    assert (reported["preset"], reported["HOROVOD_CYCLE_TIME"]) == ("cpu", "3")
    cores, present = [parse_cpu_list(text) for text in reported["cores"]], os.sched_getaffinity(0)
    assert len(cores) == 2 and cores[0] | cores[1] == present
    assert len(present) % 2 == 1 or not cores[0] & cores[1]


@pytest.mark.parametrize("name", ["local.sh", "mpirun.sh", "hosts.sh"])
def test_a_script_without_its_first_argument_prints_its_usage(name: str, tmp_path: Path) -> None:
    finished = script(name, cwd=tmp_path)
    assert finished.code != 0 and "usage: " in finished.output


@pytest.mark.parametrize(
    ("name", "ranks", "wrong"),
    [
        ("local.sh", "0", "0"),
        ("local.sh", "-1", "-1"),
        ("mpirun.sh", "two", "two"),
        ("hosts.sh", "localhost:0", "0"),
        ("hosts.sh", "node1,node2:2", "node1"),
        ("hosts.sh", "localhost:", ""),
    ],
)
def test_what_is_no_number_of_ranks_is_refused(name: str, ranks: str, wrong: str, tmp_path: Path) -> None:
    finished = script(name, ranks, cwd=tmp_path)
    assert finished.code == 2 and f"'{wrong}' is not a number of ranks; usage: " in finished.output


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed (apt install shellcheck)")
def test_every_script_is_clean(tmp_path: Path) -> None:
    scripts = [str(path.relative_to(LAUNCH.parent)) for path in sorted(LAUNCH.rglob("*.sh"))]
    finished = execute(["shellcheck", "-x", *scripts], LAUNCH.parent, DEADLINE)
    assert len(scripts) == 10 and finished.code == 0, finished.output


@pytest.mark.parametrize(
    ("name", "ranks", "number", "own"),
    [
        ("local.sh", "2", signal.SIGINT, {}),
        ("local.sh", "2", signal.SIGHUP, {}),
        ("hosts.sh", "localhost:1,127.0.0.1:1", signal.SIGTERM, {"INTERFACE": "lo"}),
        ("mpirun.sh", "2", signal.SIGUSR1, {"HOSTFILE": "hosts"}),
    ],
    ids=["local.sh-INT", "local.sh-HUP", "hosts.sh", "mpirun.sh"],
)
def test_a_script_starts_its_ranks_and_ends_with_the_code_of_train_and_its_message_last(
    name: str, ranks: str, number: signal.Signals, own: dict[str, str], tmp_path: Path
) -> None:
    """A signal to the script's process group, as a terminal sends it. hosts.sh starts a rank for each slot.

    Rank 1 takes longer to stop than the five seconds after which horovodrun would kill it.
    """
    if name == "mpirun.sh":
        command_line("mpirun", 2)  # skips where there is none
    (tmp_path / "hosts").write_text("localhost slots=2\n")
    flags = ["--train.epochs", "10000", "--run.log_every", "10"]
    running = Running(
        ["env", "--default-signal=HUP", str(LAUNCH / name), ranks, *flags],  # below nohup it would be ignored
        tmp_path,
        DEADLINE,
        **{**ENVIRONMENT, **own, "MXNET_ENFORCE_DETERMINISM": "1"},
    )
    metrics = tmp_path / "runs" / "quickstart" / "metrics.jsonl"
    running.wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 1)
    rank = running.rank(1)
    rank.suspend()
    os.killpg(running.process.pid, number)
    time.sleep(7)
    rank.resume()
    finished = running.finish()
    assert finished.code == 75, finished.output
    assert f"quickstart: 2 rank(s), {'MPI' if name == 'mpirun.sh' else 'Gloo'}, " in finished.output
    last = finished.output.splitlines()[-1]
    assert last.startswith("vggdist: stopped by SIG") and "start the same command again to continue" in last


@pytest.mark.parametrize(("own", "seconds"), [({}, "10"), ({"OMPI_MCA_odls_base_sigkill_timeout": "60"}, "60")])
def test_mpirun_gives_its_ranks_time_to_save(own: dict[str, str], seconds: str, tmp_path: Path) -> None:
    """In the environment of the launcher; Open MPI's own default is 1 s."""
    printed = f". {LAUNCH}/common.sh; start printenv OMPI_MCA_odls_base_sigkill_timeout"
    finished = execute(["bash", "-c", printed], tmp_path, 60, **own)
    assert (finished.code, finished.output.strip()) == (0, seconds)


def test_a_refusal_is_the_last_line_of_a_script(tmp_path: Path) -> None:
    finished = script("local.sh", "2", "--train.stepz", "3", cwd=tmp_path)
    assert finished.code == 2
    assert finished.output.splitlines()[-1].startswith("vggdist: unknown key train.stepz; did you mean train.steps?")
    assert not (tmp_path / "runs").exists()
