"""``vggdist runs`` lists and compares runs in any state, without MXNet."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vggdist import runs
from vggdist.config.errors import RequestError
from vggdist.processes.job import this_job
from vggdist.reporting.run_record import is_run, read_run
from vggdist.runs import comparison, main, overview

CONFIGURATION = "run:\n  name: {name}\ntrain:\n  epochs: 2\n  steps: null\noptimizer:\n  learning_rate: {rate}\n"


def line(step: int, **metrics: float) -> str:
    return json.dumps(
        {"step": step, "epoch": step / 10, **{name.replace("__", "/"): value for name, value in metrics.items()}}
    )


LINES = [
    line(5, train__loss=2.0, throughput__images_per_s=90.0),
    line(10, train__loss=1.5, throughput__images_per_s=100.0),
    json.dumps({"step": 10, "epoch": 1, "eval/top1(%)": 70.0, "eval/loss": 0.7}),
    line(15, train__loss=1.2, throughput__images_per_s=5000.0),
    json.dumps({"step": 15, "epoch": 1.5, "eval/top1(%)": 65.0, "eval/loss": 0.6}),
]


def make(folder: Path, rate: float = 0.1, lines: list[str] = LINES, **result: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIGURATION.format(name=folder.name, rate=rate))
    (folder / "metrics.jsonl").write_text("".join(f"{one}\n" for one in lines))
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def finished(folder: Path, rate: float = 0.1, top1: float = 71.5) -> Path:
    best = {"part": "eval", "metric": "top1", "value": top1, "step": 20}
    return make(folder, rate, state="finished", exit_code=0, step=20, best=best, world_size=2, device="cpu(0)", seconds=12.3)


def cells(table: list[str]) -> dict[str, list[str]]:
    """The rows of a table by the run's name; columns are separated by at least two spaces."""
    return {row[0]: row[1:] for row in ([*filter(None, map(str.strip, one.split("  ")))] for one in table)}


def test_a_table_has_state_step_best_metric_speed_and_age_of_each_run(tmp_path: Path) -> None:
    finished(tmp_path / "done")
    make(tmp_path / "gone", state="running", exit_code=None, job={**this_job(), "process": 2**22 - 1})
    make(tmp_path / "alive", state="running", exit_code=None, job=this_job())
    make(tmp_path / "far", state="running", exit_code=None, job={**this_job(), "host": "another"})
    make(tmp_path / "broken", state="failed", exit_code=1, error="the loss is not finite")
    for number, name in enumerate(("far", "alive", "gone", "done", "broken")):
        for path in (tmp_path / name).iterdir():
            os.utime(path, (time.time() - 100 * number,) * 2)
    table = overview([read_run(path) for path in tmp_path.iterdir()])
    assert cells(table)["run"] == ["state", "step", "best top1(%)", "at step", "images/s", "ranks", "changed"]
    assert [row.split()[0] for row in table[1:]] == ["far", "alive", "gone", "done", "broken"]
    assert cells(table)["done"] == ["finished", "20/20", "71.5", "eval", "20", "100", "2", "5 min ago"]
    assert cells(table)["alive"] == ["running", "15/20", "70", "eval", "10", "100", "-", "100 s ago"]
    states = {name: row[0] for name, row in cells(table).items()}
    assert (states["far"], states["gone"], states["broken"]) == ("running?", "died", "failed")


@pytest.mark.parametrize(
    ("pointer", "step"), [("step-00000017\n", 17), ("step-00000009\n", 15), ("nonsense", 15), ("step-" + "9" * 99, 15)]
)
def test_a_stopped_run_stands_at_its_newest_checkpoint(tmp_path: Path, pointer: str, step: int) -> None:
    folder = make(tmp_path / "a", state="stopped", exit_code=75)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "latest").write_text(pointer)
    assert read_run(folder).step == step


def test_a_process_that_has_the_number_of_an_ended_one_is_another(tmp_path: Path) -> None:
    job = {"host": socket.gethostname(), "process": os.getpid(), "started_at": "2001-01-01T00:00:00Z"}
    assert read_run(make(tmp_path / "a", state="running", exit_code=None, job=job)).state == "died"


def test_the_best_loss_is_the_lowest_and_the_validation_set_comes_first(tmp_path: Path) -> None:
    both = [json.dumps({"step": 20, "epoch": 2, "validation/loss": value, "eval/loss": 0.1}) for value in (0.9, 0.4, 0.5)]
    folder = make(tmp_path / "a", lines=[*LINES, *both])
    (folder / "config.yaml").write_text("checkpoint:\n  best_metric: loss\n")
    found = read_run(folder)
    assert (found.best_metric, found.best_value, found.total_steps) == ("validation/loss", 0.4, None)


def test_where_runs_have_different_metrics_each_is_named(tmp_path: Path) -> None:
    finished(tmp_path / "a")
    make(tmp_path / "b", lines=[json.dumps({"step": 1, "epoch": 0.1, "validation/top1(%)": 50.25})])
    table = overview([read_run(tmp_path / name) for name in "ab"])
    assert "71.5  eval " in table[1] + table[2] and "50.25 validation " in table[1] + table[2]
    assert "best top1(%)" in table[0]
    (tmp_path / "b" / "config.yaml").write_text("checkpoint:\n  best_metric: loss\n")
    (tmp_path / "b" / "metrics.jsonl").write_text(LINES[2])
    table = overview([read_run(tmp_path / name) for name in "ab"])
    assert "71.5  eval/top1(%) " in table[1] + table[2] and "0.7   eval/loss " in table[1] + table[2]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_s_width_is_kept_and_the_end_of_a_long_name_is_seen(tmp_path: Path, width: int) -> None:
    for number in range(3):
        finished(tmp_path / f"an-experiment-with-a-name-that-says-everything-about-it-seed-{number}")
    table = overview([read_run(path) for path in tmp_path.iterdir()], width)
    assert all(len(row) <= width for row in table)
    assert {row.split()[0][-6:] for row in table[1:]} == {"seed-0", "seed-1", "seed-2"}
    assert "images/s" in table[0] and "changed" in table[0] and ("ranks" in table[0]) is (width == 120)


DAMAGED: dict[str, Any] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 20),
    "deep": lambda path: path.write_text("[" * 100_000),
    "other": lambda path: path.write_text('[1, {"a": null}, "x"]\n7\nnull\n{"step": "x", "epoch": []}\n{"step": true}\n'),
    "wild": lambda path: path.write_text(
        '{"state": 7, "exit_code": "x", "step": [1], "best": {"metric": 3, "value": "x"}, "job": 5, "world_size": "y"}'
    ),
    "huge": lambda path: path.write_text(
        '{"step": 1' + "0" * 400 + ', "epoch": 1e999, "train/loss": 1e999, "exit_code": 1}\n'
    ),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "FIFO": lambda path: (path.unlink(), os.mkfifo(path)),
    "zeros": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "result.json", "all"])
def test_a_damaged_folder_hides_neither_itself_nor_the_others(tmp_path: Path, name: str, damage: str) -> None:
    finished(tmp_path / "sound"), finished(tmp_path / "hit")
    (tmp_path / "hit" / "log.txt").touch()
    (tmp_path / "hit" / "checkpoints").mkdir()
    for file in ("config.yaml", "metrics.jsonl", "result.json") if name == "all" else (name,):
        DAMAGED[damage](tmp_path / "hit" / file)
    table = cells(overview([read_run(tmp_path / one) for one in ("sound", "hit")], 120))
    assert table["sound"][:2] == ["finished", "20/20"] and len(table["hit"]) >= 7
    try:
        comparison([tmp_path / "sound", tmp_path / "hit"])
    except RequestError as error:
        assert name in ("config.yaml", "all") and str(error).startswith(f"{tmp_path / 'hit' / 'config.yaml'}")


def test_foreign_folders_and_files_are_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "train").mkdir(parents=True)
    (tmp_path / "config.yaml").touch()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "config.yaml").touch()
    (tmp_path / "link").symlink_to("nowhere")
    assert not any(map(is_run, tmp_path.iterdir()))
    assert main([str(tmp_path)]) == 2 and "has no runs" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 2 and "No such file or directory" in capsys.readouterr().err
    assert main([str(tmp_path), str(tmp_path / "notes")]) == 2 and "is not the folder of a run" in capsys.readouterr().err
    assert main(["--all"]) == 2 and "unrecognized arguments: --all" in capsys.readouterr().err


def test_a_name_that_no_terminal_can_show_is_escaped(tmp_path: Path) -> None:
    path = finished(tmp_path / "a").rename(tmp_path / os.fsdecode(b"caf\xe9\x1b[31m"))
    assert "caf\\xe9\\x1b[31m" in overview([read_run(path)])[1]


def test_two_runs_are_compared_by_what_differs_and_what_came_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path / "runs" / "a", rate=0.1)
    finished(tmp_path / "runs" / "b", rate=0.02, top1=98.25)
    (tmp_path / "runs" / "b" / "config.yaml").open("a").write("data:\n  root: elsewhere\n  validation: 0.1\n")
    assert main(["a", "runs/b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table, start = cells(lines), lines.index("outcome")
    assert lines[0].split() == ["runs/a", "runs/b"]
    assert [one.split() for one in lines[2:start]] == [
        ["optimizer.learning_rate", "0.1", "0.02"],
        ["data.validation", "-", "0.1"],
    ]
    assert table["best"] == ["71.5", "eval/top1(%)", "98.25 eval/top1(%)"] and table["step"] == ["20/20", "20/20"]
    assert table["eval/loss"] == ["0.6", "0.6"] and table["seconds of the newest job"] == ["12", "12"]


def test_runs_with_the_same_settings_are_called_so(tmp_path: Path) -> None:
    table = comparison([finished(tmp_path / "a"), finished(tmp_path / "b")])
    assert "(the same settings)" in table[2]


def test_a_comparison_keeps_a_terminal_s_width(tmp_path: Path) -> None:
    paths = [make(tmp_path / ("a" * 60), error="very " * 60, exit_code=1), finished(tmp_path / ("b" * 60), rate=0.5)]
    assert all(len(row) <= 80 for row in comparison(paths, 80))


def test_without_arguments_it_is_the_folder_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "runs" / "a")
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0 and "finished" in capsys.readouterr().out
    assert main(["runs/a"]) == 0 and "finished" in capsys.readouterr().out


def test_it_imports_neither_mxnet_nor_numpy_and_is_in_the_list_of_commands() -> None:
    check = "import sys, vggdist.runs; assert not {'mxnet', 'horovod', 'numpy', 'pydantic'} & {*sys.modules}"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
    listed = subprocess.run([sys.executable, "-m", "vggdist", "--help"], capture_output=True, text=True, check=False)
    assert "\n  runs  " in listed.stdout and runs.__doc__ is not None
