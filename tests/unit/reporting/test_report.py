"""Metrics reach TensorBoard and ``metrics.jsonl`` once, under their names."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vggdist.reporting.console import open_log, start_logging
from vggdist.reporting.report import Report, SilentReport

CONFUSION = np.array([[3, 1], [0, 4]])


def training_metrics(value: float) -> dict[str, float]:
    return {
        "train/loss": value,
        "train/loss_moving_average": value,
        "train/top1(%)": 50.0,
        "optim/learning_rate": 0.25,
        "throughput/images_per_s": 1000.0,
    }


def run(directory: Path, first_step: int, last_step: int, sign: int = 1) -> None:
    """A process that reports each step, with its loss the step times the sign, and evaluates at the end."""
    with Report(directory, first_step, total_steps=10) as report:
        for step in range(first_step + 1, last_step + 1):
            report.advance(step)
            report.training(step, step / 4, training_metrics(sign * step))
        report.evaluation(last_step, last_step / 4, "test", {"eval/top1(%)": 87.5, "eval/loss": 0.5}, CONFUSION)
    for events in (directory / "tensorboard").iterdir():  # their names tell seconds; the next process starts later
        age = len(list((directory / "tensorboard").iterdir()))
        if "events.out.tfevents.0" not in events.name:
            events.rename(events.with_name(f"events.out.tfevents.{age:010d}.host"))


def lines(directory: Path) -> list[dict[str, Any]]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    text = (directory / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def scalars(directory: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: (step, value) of each curve."""
    events = EventAccumulator(str(directory / "tensorboard"))
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
    with Report(tmp_path, 0, 10) as report:
        report.training(1, 0.25, training_metrics(1))
        assert len(lines(tmp_path)) == 1


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    with Report(tmp_path, 0, 10) as report:
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


@pytest.mark.parametrize("torn", ['{"step": 2, "ep', "garbage\n", "7\n", "{}\n", '{"step": 2}'])
def test_a_torn_line_is_taken_back(tmp_path: Path, torn: str) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n' + torn)
    run(tmp_path, 5, 6)
    assert [line["step"] for line in lines(tmp_path)] == [1, 6, 6]


def test_a_silent_report_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SilentReport() as report:
        report.advance(1)
        report.training(1, 0.25, training_metrics(1))
        report.evaluation(1, 1, "test", {"eval/loss": 1.0}, CONFUSION)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def logger() -> Any:
    """The package's logger, put back as it was."""
    found = logging.getLogger("vggdist")
    former = found.handlers[:], found.level, found.propagate
    yield found
    found.handlers[:], found.level, found.propagate = former


def test_rank_0_tells_its_metrics_on_console_and_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logger: logging.Logger
) -> None:
    start_logging(rank=0)
    open_log(tmp_path / "log.txt")
    run(tmp_path, 0, 1)
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert "step  1/10" in text and "top1 50.00 %" in text and "top1(%) 87.5" in text


def test_other_ranks_tell_only_warnings_with_their_rank(capsys: pytest.CaptureFixture[str], logger: logging.Logger) -> None:
    start_logging(rank=3)
    logger.info("usual")
    logger.warning("odd")
    assert capsys.readouterr().out == "rank 3: odd\n"
