"""The doctor under each launcher."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.launch.test_scripts import DOCUMENTED
from tests.launching import run
from tests.rank_pool import command
from tests.ranks.test_selftest import require_passed


def test_the_page_on_clusters_has_the_commands_that_are_tried_here() -> None:
    commands = ["python -m vggdist.doctor", "horovodrun --gloo -np 2 python -m vggdist.doctor"]
    assert [line for line in DOCUMENTED if "doctor" in line] == commands


@pytest.mark.parametrize("launcher", ["python", "horovodrun --gloo", "mpirun"])
def test_a_sound_place_is_reported_once_with_its_ranks(launcher: str, tmp_path: Path) -> None:
    size = 1 if launcher == "python" else 2
    finished = command(launcher, size, "doctor", tmp_path)
    assert finished.code == 0, finished.output
    controller = {"python": "none", "mpirun": "MPI"}.get(launcher, "Gloo")
    name = {"python": "no launcher", "mpirun": "mpirun"}.get(launcher, "horovodrun")
    assert finished.output.count(f"{size} rank(s) from {name}, controller {controller}") == 1, finished.output
    assert "error" not in finished.output
    report = json.loads((tmp_path / "runs" / "doctor.json").read_text())
    assert [one["rank"] for one in report["ranks"]] == list(range(size))


@pytest.mark.parametrize("folder", ["file", "n" * 300])
def test_a_place_where_a_run_would_fail_shows_in_the_exit_code(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finished = command("horovodrun --gloo", 2, "doctor", tmp_path, "--run.directory", folder)
    assert finished.code == 1 and f"a run would fail here: {folder} cannot be written" in finished.output, finished.output


def test_a_wrong_request_is_refused(tmp_path: Path) -> None:
    finished = command("python", 1, "doctor", tmp_path, "--run.devise", "gpu")
    assert finished.code == 2 and "unknown key run.devise; did you mean run.device?" in finished.output


def test_processes_that_horovod_does_not_connect_fail_with_one_message(tmp_path: Path) -> None:
    """As where Horovod was built without the launcher's MPI: each is rank 0 of 1."""
    alone: dict[str, Any] = {"HOROVOD_CONTROLLER": "gloo", "HOROVOD_CPU_OPERATIONS": "gloo"}
    finished = run("mpirun", 2, ["-m", "vggdist.doctor"], tmp_path, **alone)
    assert finished.code == 2, finished.output
    assert finished.output.count("mpirun started 2 processes, but Horovod connects 1") == 1


_IN_SMALL = """
import sys
from tests.selftests import TINY
from vggdist import doctor
from vggdist.selftest import bench
bench.Scale.of = classmethod(lambda cls, device: TINY)
sys.exit(doctor.main(sys.argv[1:]))
"""


def test_a_selftest_follows_the_examination(tmp_path: Path) -> None:
    finished = run("python", 1, ["-c", _IN_SMALL, "--selftest"], tmp_path)
    assert finished.code == 0, finished.output
    assert "selftest: update as on the CPU, full: 0 (limit 0.001)" in finished.output
    assert "runs/selftest.json and selftest.txt have the details" in finished.output
    require_passed(tmp_path / "runs", size=1)


def test_no_selftest_follows_an_examination_that_found_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    finished = command("python", 1, "doctor", tmp_path, "--selftest", "--run.directory", "file")
    assert finished.code == 1 and "selftest" not in finished.output, finished.output
    assert not (tmp_path / "runs").exists()
