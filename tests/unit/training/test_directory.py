"""One process trains a run, and an earlier run is not overwritten unasked."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.config.schema import Config, RunConfig
from vggdist.training.directory import open_directory

OPEN = """
import sys
import threading
from pathlib import Path
from vggdist.config.schema import Config
from vggdist.training.directory import open_directory
open_directory(Path(sys.argv[1]), Config())
print("open", flush=True)
sys.stdin.read()
"""


def test_the_folder_gets_a_configuration_that_can_be_read_back(tmp_path: Path) -> None:
    config = Config(run=RunConfig(name="one", seed=7))
    open_directory(tmp_path / "one", config)
    assert load("train", ["--config", str(tmp_path / "one" / "config.yaml")]) == config


def test_a_second_process_is_refused_while_the_first_trains_and_admitted_after_its_death(tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)], **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "open\n"
        with pytest.raises(RequestError, match=f"is being trained by process {first.pid} on "):
            open_directory(tmp_path, Config())
        first.kill()
    open_directory(tmp_path, Config())


def test_starting_anew_is_refused_where_checkpoints_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(RequestError, match="holds a run with checkpoints"):
        open_directory(tmp_path, Config(run=RunConfig(resume="never")))
    assert (tmp_path / "checkpoints").is_dir()


def test_overwriting_removes_the_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("{}")
    open_directory(tmp_path, Config(run=RunConfig(resume="never", overwrite=True)))
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.yaml"}


def test_an_elastic_run_that_continues_empties_nothing_and_waits_for_the_former_rank_0(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    config = Config(run=RunConfig(resume="never", overwrite=True))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path)], **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "open\n"
        threading.Timer(0.2, first.kill).start()
        open_directory(tmp_path, config, continues=True)
    assert (tmp_path / "checkpoints").is_dir()


def test_a_process_may_come_back_to_a_folder_that_it_holds(tmp_path: Path) -> None:
    for _ in range(2):
        open_directory(tmp_path, Config())
