"""Only one process trains a run, a refused request leaves no trace, and only the run's own files are removed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.config.load import load
from vggdist.config.schema import Config, RunConfig
from vggdist.training.run_directory import RunDirectory

HOLD = """
import sys
from pathlib import Path
from vggdist.config.schema import Config
from vggdist.training.run_directory import RunDirectory
directory = RunDirectory(Path(sys.argv[1]))
directory.lock(Config())
print("held", flush=True)
sys.stdin.read()
"""
PLAIN = Config()
ANEW = Config(run=RunConfig(resume="never", overwrite=True))
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


def opened(path: Path, config: Config, continues: bool = False) -> None:
    with RunDirectory(path) as directory:
        directory.lock(config, continues)
        directory.open(config, continues)
    directory.release()


def refused(path: Path, config: Config = PLAIN) -> str:
    with pytest.raises(RequestError) as error, RunDirectory(path) as directory:
        directory.lock(config)
    return str(error.value)


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_folder_gets_a_configuration_that_can_be_read_back(tmp_path: Path) -> None:
    config = Config(run=RunConfig(name="one", seed=7))
    opened(tmp_path / "one", config)
    assert load("train", ["--config", str(tmp_path / "one" / "config.yaml")]) == config


def test_a_second_process_is_refused_while_the_first_trains_and_admitted_after_its_death(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **PIPES) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "held\n"
        assert f"is being trained by process {first.pid} on " in refused(tmp_path)
        first.kill()
    opened(tmp_path, Config())


def test_what_is_refused_after_the_folder_was_held_leaves_nothing_new(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(RequestError, match="no such data"), RunDirectory(tmp_path / "runs" / "a" / "b") as directory:
        directory.lock(Config())
        assert tree(tmp_path) == {"runs", "runs/a", "runs/a/b", "runs/a/b/.lock"}
        raise RequestError("no such data")
    assert tree(tmp_path) == {"runs"}


def test_what_is_refused_leaves_an_earlier_run_as_it_was(tmp_path: Path) -> None:
    opened(tmp_path, Config(run=RunConfig(seed=1)))
    before = {name: (tmp_path / name).read_text() for name in tree(tmp_path) if name != ".lock"}
    with pytest.raises(RequestError), RunDirectory(tmp_path) as directory:
        directory.lock(Config(run=RunConfig(seed=2)))
        raise RequestError("another network")
    assert {name: (tmp_path / name).read_text() for name in tree(tmp_path) if name != ".lock"} == before
    opened(tmp_path, Config())  # the folder is unlocked again


def test_a_fresh_start_is_refused_where_checkpoints_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert "holds a run with checkpoints" in refused(tmp_path, Config(run=RunConfig(resume="never")))
    assert (tmp_path / "checkpoints").is_dir()


def test_overwriting_removes_the_earlier_run(tmp_path: Path) -> None:
    for folder in ("checkpoints/step-00000010", "checkpoints/.step-00000020.writing.1-1.ab", "tensorboard"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "tensorboard" / "events.out.tfevents.1.host").touch()
    files = ("metrics.jsonl", "log.txt", "result.json", "confusion-eval.json", "checkpoints/latest")
    for file in (*files, "events.out.tfevents.1795750618.165990.host.353"):
        (tmp_path / file).write_text("{}")
    opened(tmp_path, ANEW)
    assert tree(tmp_path) == {".lock", "config.yaml"}


def test_it_says_whether_the_configuration_is_another_than_before(tmp_path: Path) -> None:
    configs = (Config(), Config(), Config(run=RunConfig(seed=1)), Config(run=RunConfig(seed=1)))
    found = []
    for config in configs:
        directory = RunDirectory(tmp_path)
        directory.lock(config)
        found.append(directory.open(config))
        directory.release()
    assert found == [True, False, True, False]
    (tmp_path / "config.yaml").write_bytes(b"\xff")
    directory = RunDirectory(tmp_path)
    directory.lock(Config())
    assert directory.open(Config()) is True
    directory.release()


def test_overwriting_removes_nothing_before_it_is_sure_to_train(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    with pytest.raises(RequestError), RunDirectory(tmp_path) as directory:
        directory.lock(ANEW)
        raise RequestError("no such data")
    assert (tmp_path / "checkpoints" / "step-00000010").is_dir()


def test_overwriting_keeps_what_the_run_did_not_write(tmp_path: Path) -> None:
    kept = [
        "analysis/plot.py",
        "tensorboard/notes.txt",
        "bench/events.out.tfevents.2",
        "checkpoints/mine/weights",
        "paper.pdf",
        "other/checkpoints/latest",
    ]
    for file in [*kept, "checkpoints/step-00000010/state.json", "tensorboard/events.out.tfevents.1", "metrics.jsonl"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("x")
    opened(tmp_path, ANEW)
    files = {name for name in tree(tmp_path) if (tmp_path / name).is_file()}
    assert files == {*kept, ".lock", "config.yaml"}


def test_an_elastic_run_that_continues_removes_nothing_and_waits_for_the_former_rank_0(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "step-00000010").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **PIPES) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "held\n"
        threading.Timer(0.2, first.kill).start()
        opened(tmp_path, ANEW, continues=True)
    assert (tmp_path / "checkpoints" / "step-00000010").is_dir()


def test_a_process_may_hold_again_what_it_holds(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for _ in range(2):
        directory.lock(Config())


def test_the_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("content")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    assert ".lock cannot be opened" in refused(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "content"


def test_a_lock_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    assert ".lock is not a regular file" in refused(tmp_path)


@pytest.mark.parametrize("name", ["run", "run/checkpoints"])
def test_a_file_where_a_folder_belongs_is_found_at_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert f"{tmp_path / name} is not a folder" in refused(tmp_path / "run")


def test_others_can_read_the_lock(tmp_path: Path) -> None:
    former = os.umask(0o022)
    try:
        opened(tmp_path, Config())
    finally:
        os.umask(former)
    assert (tmp_path / ".lock").stat().st_mode & 0o777 == 0o644
