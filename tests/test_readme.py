"""The README's commands work unchanged."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.launch.test_train import require_complete
from tests.launching import DEADLINE, execute, result_of

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


def test_the_first_command_is_the_main_job_and_ci_runs_the_second() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -q uv==0.13.8 && .venv/bin/uv run "
    assert COMMANDS[:2] == [f"{install}horovodrun -np 2 python -m vggdist.train", f"{install}pytest -n 4"]
    assert "README.md" in (PROJECT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("readme")
    (made / "configs").symlink_to(PROJECT / "configs")
    return made


@pytest.mark.parametrize("command", COMMANDS[2:])
def test_a_command_of_the_readme_runs(command: str, folder: Path) -> None:
    """In order, in one folder: later commands use the run of the first."""
    if command.startswith("tensorboard"):
        command += " --inspect"  # the server does not end
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    finished = execute(["bash", "-c", command], folder, DEADLINE, PATH=path)
    assert finished.code == 0 and finished.output, finished.output
    assert result_of(folder)["metrics"]["eval/top1(%)"] >= 98
    if command == COMMANDS[2]:  # later ones add to the folder
        require_complete(folder / "runs" / "quickstart")
