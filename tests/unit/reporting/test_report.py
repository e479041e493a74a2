"""Metrics reach TensorBoard and ``metrics.jsonl`` once, under their names."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.disks import Disk
from vggdist.config.errors import RequestError
from vggdist.reporting.console import open_log, start_logging
from vggdist.reporting.report import Report, RunReport, require_usable

CONFUSION = np.array([[3, 1], [0, 4]])


def training_metrics(value: float) -> dict[str, float]:
    return {
        "train/loss": value,
        "train/loss_moving_average": value,
        "train/top1(%)": 50.0,
        "optim/learning_rate": 0.25,
        "throughput/images_per_s": 1000.0,
        "time/step(ms)": 2000.0,
    }


def run(directory: Path, first_step: int, last_step: int, sign: int = 1) -> None:
    """A process that reports each step, with the loss step * sign, and evaluates at the end."""
    with RunReport(directory, first_step, total_steps=10) as report:
        for step in range(first_step + 1, last_step + 1):
            report.advance(step)
            report.training(step, step / 4, training_metrics(sign * step))
        report.evaluation(last_step, last_step / 4, "test", {"eval/top1(%)": 87.5, "eval/loss": 0.5}, CONFUSION)


def lines(directory: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """The curves in TensorBoard: (step, value) of each."""
    events = EventAccumulator(str(directory))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_the_event_file_contains_the_scalars_under_their_names(tmp_path: Path) -> None:
    run(tmp_path, 0, 3)
    found = scalars(tmp_path)
    assert set(found) == {*training_metrics(0), "eval/top1(%)", "eval/loss"}
    assert found["train/loss"] == [(1, 1), (2, 2), (3, 3)] and found["eval/top1(%)"] == [(3, 87.5)]


def test_metrics_lines_hold_step_epoch_and_metrics(tmp_path: Path) -> None:
    run(tmp_path, 0, 2)
    assert lines(tmp_path) == [
        {"step": 1, "epoch": 0.25, **training_metrics(1)},
        {"step": 2, "epoch": 0.5, **training_metrics(2)},
        {"step": 2, "epoch": 0.5, "eval/top1(%)": 87.5, "eval/loss": 0.5},
    ]


def test_a_line_is_on_the_disk_when_it_was_reported(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        report.training(1, 0.25, training_metrics(1))
        assert len(lines(tmp_path)) == 1


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    with RunReport(tmp_path, 0, 10) as report:
        report.evaluation(1, 1, "test", {"eval/auc": math.nan, "eval/loss": math.inf, "eval/f1": 0.5}, CONFUSION)
    assert lines(tmp_path) == [{"step": 1, "epoch": 1, "eval/auc": None, "eval/loss": None, "eval/f1": 0.5}]


def test_the_confusion_matrix_is_kept_for_each_part(tmp_path: Path) -> None:
    run(tmp_path, 0, 2)
    stored = json.loads((tmp_path / "confusion-test.json").read_text())
    assert stored == {"step": 2, "rows": "true class", "counts": CONFUSION.tolist()}


def test_a_continued_run_cuts_the_lines_after_its_step(tmp_path: Path) -> None:
    run(tmp_path, 0, 5)
    run(tmp_path, 3, 6, sign=-1)
    losses = [(line["step"], line["train/loss"]) for line in lines(tmp_path) if "train/loss" in line]
    assert losses == [(1, 1), (2, 2), (3, 3), (4, -4), (5, -5), (6, -6)]
    assert [line["step"] for line in lines(tmp_path) if "eval/loss" in line] == [6]


def test_the_curves_of_a_continued_run_do_not_double(tmp_path: Path) -> None:
    run(tmp_path, 0, 5)
    run(tmp_path, 3, 6, sign=-1)
    found = scalars(tmp_path)
    assert found["train/loss"] == [(1, 1), (2, 2), (3, 3), (4, -4), (5, -5), (6, -6)] and len(found["eval/loss"]) == 1


def test_a_run_that_starts_again_without_a_checkpoint_takes_everything_back(tmp_path: Path) -> None:
    run(tmp_path, 0, 5)
    run(tmp_path, 0, 2, sign=-1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 2]
    assert scalars(tmp_path)["train/loss"] == [(1, -1), (2, -2)]


def test_curves_and_lines_have_no_gap_after_a_disk_that_was_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full within a record of each file, from the third step to the sixth."""
    disk = Disk(monkeypatch, 10**6)
    with RunReport(tmp_path, 0, 10) as report:
        for step in range(1, 11):
            disk.room = {3: 100, 6: 10**6}.get(step, disk.room)
            report.training(step, step / 4, training_metrics(step))
        assert report.lost == {}
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 11))
    assert scalars(tmp_path)["train/loss"] == [(step, step) for step in range(1, 11)]


def test_what_could_not_be_written_is_reported_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Disk(monkeypatch, 100)
    with RunReport(tmp_path, 0, 10) as report:
        for step in range(1, 4):
            report.training(step, step / 4, training_metrics(step))
    assert report.lost == {"metrics.jsonl": 3, "events.out.tfevents": 4}  # one records that the run has finished


def test_a_confusion_matrix_is_whole_or_the_former_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def full_disk(self: Path, target: Path) -> NoReturn:
        raise OSError(28, "No space left on device")

    with RunReport(tmp_path, 0, 10) as report:
        report.evaluation(1, 1, "eval", {"eval/loss": 0.5}, CONFUSION)
        with monkeypatch.context() as broken:
            broken.setattr(Path, "replace", full_disk)
            for step in (2, 3):
                report.evaluation(step, 1, "eval", {"eval/loss": 0.5}, CONFUSION)
        former = json.loads((tmp_path / "confusion-eval.json").read_text())
        assert former["step"] == 1 and report.lost == {"confusion-eval.json": 1}
        assert log.text.count("confusion-eval.json cannot be written: No space left") == 1
        report.evaluation(4, 1, "eval", {"eval/loss": 0.5}, CONFUSION)
        assert report.lost == {} and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt"])
@pytest.mark.parametrize("kind", ["folder", "file", "FIFO", "zeros", "loop"])
def test_what_stands_in_the_place_of_a_report_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    {
        "folder": path.mkdir,
        "file": path.touch,
        "FIFO": lambda: os.mkfifo(path),
        "zeros": lambda: path.symlink_to("/dev/zero"),
        "loop": lambda: path.symlink_to(name),
    }[kind]()  # type: ignore[operator]
    if kind == "file":
        require_usable(tmp_path)
        return
    with pytest.raises(RequestError, match=f"{name} is not a regular file; move it away"):
        require_usable(tmp_path)


@pytest.mark.timeout(60)
def test_what_a_kill_left_of_a_confusion_matrix_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "confusion-test.json.tmp")
    run(tmp_path, 0, 2)
    assert json.loads((tmp_path / "confusion-test.json").read_text())["step"] == 2
    names = sorted(name.partition(".out.")[0] for name in os.listdir(tmp_path))
    assert names == ["confusion-test.json", "events", "metrics.jsonl"]


def test_a_network_that_guesses_is_reported_once(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    guesses = np.zeros((10, 10), int)
    guesses[:, 3] = 36
    with RunReport(tmp_path, 0, 10) as report:
        report.evaluation(1, 0.5, "eval", {"eval/loss": math.log(10)}, guesses)
        assert "guessing" not in log.text
        for step in (2, 3):
            report.evaluation(step, step, "eval", {"eval/loss": math.log(10)}, guesses)
    assert log.text.count("is that of guessing (ln 10 = 2.303)") == 1 and "optimizer.learning_rate" in log.text


def test_a_silent_report_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Report() as report:
        report.advance(1)
        report.training(1, 0.25, training_metrics(1))
        report.evaluation(1, 1, "test", {"eval/loss": 1.0}, CONFUSION)
    assert not list(tmp_path.iterdir())


def test_a_file_name_that_is_not_utf8_reaches_console_and_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    start_logging(rank=0)
    open_log(tmp_path / "log.txt")
    logger.warning("%s is damaged", os.fsdecode(b"caf\xe9.jpg"))
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text("utf-8")):
        assert text.endswith("caf\\udce9.jpg is damaged\n")


def test_a_console_that_is_gone_or_a_full_disk_does_not_end_the_logging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: logging.Logger
) -> None:
    start_logging(rank=0)
    open_log(tmp_path / "log.txt")
    for output in (None, open("/dev/full", "w")):
        monkeypatch.setattr(sys, "stdout", output)
        logger.info("a line")
    disk = Disk(monkeypatch, 0)
    logger.info("another")
    disk.room = 10**6
    logger.info("last")
    monkeypatch.undo()
    found = [line.split(" ", 3)[3] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert found[:3] == ["a line", "a line", "another"] and "last" in found and "cannot be written" in str(found)


@pytest.fixture
def logger() -> Any:
    """The package's logger, restored afterwards."""
    found = logging.getLogger("vggdist")
    former = found.handlers[:], found.level, found.propagate
    yield found
    found.handlers[:], found.level, found.propagate = former


def test_rank_0_reports_its_metrics_on_console_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    start_logging(rank=0)
    open_log(tmp_path / "log.txt")
    run(tmp_path, 0, 1)
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert "step  1/10" in text and "top1 50.00 %" in text and "top1(%) 87.5" in text


def test_other_ranks_log_only_warnings_with_their_rank(capsys: pytest.CaptureFixture[str], logger: logging.Logger) -> None:
    start_logging(rank=3)
    logger.info("usual")
    logger.warning("odd")
    assert capsys.readouterr().out == "rank 3: odd\n"
