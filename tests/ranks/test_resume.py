"""A run that is stopped and continued is the run that was never stopped."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.launching import HAS_BFLOAT16, result_of
from tests.rank_pool import call, train
from tests.ranks.test_faults import LONG, newest, started

TINY = [
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--train.global_batch_size", "24"),
    *("--train.steps", "22"),
    *("--run.log_every", "5"),
    *("--evaluation.every_epochs", "0"),
]
TIMES = ("throughput/", "time/", "memory/")  # the only metrics that may differ
EVERYTHING = [
    *("--model.batch_norm", "true"),
    *("--model.dropout", "0.3"),
    *("--augment.pad_crop", "1"),
    *("--augment.mixup", "0.4"),
    *("--train.accumulation", "2"),
    *("--optimizer.clip_norm", "0.5"),
]
RECIPE = [  # epochs of 15 steps: the run is stopped before the size of its images changes
    *("--optimizer.name", "muon", "--optimizer.groups", "[['*_beta', 9, 0]]", "--optimizer.ema_decay", "0.9"),
    *("--model.norm_momentum", "0.6", "--model.activation", "gelu", "--model.early_pooling", "true"),
    *("--model.head", "global_max", "--augment.progressive", "[[1, 6]]", "--augment.flip", "alternating"),
    *("--augment.pad_mode", "reflect", "--evaluation.views", "6", "--model.whitening", "true"),
    *("--train.global_batch_size", "96"),
]
NAG, FACTORS = ["--optimizer.name", "nag"], ["--train.factors", "always"]
BFLOAT16 = ["--train.precision", "bfloat16"] if HAS_BFLOAT16 else []
PRODUCTS = ["--model.stages", "[[1, 8], [1, 256], [1, 256]]", "--train.global_batch_size", "64", "--train.steps", "12"]
ADAM_BY_FP16 = ["--optimizer.name", "adam", "--train.compression", "fp16", "--train.bucket_cap_mb", "0.001"]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what depends on time."""
    lines = [json.loads(line) for line in (folder / "runs" / "quickstart" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in lines]


@pytest.mark.parametrize(
    ("launcher", "size", "flags", "stop_at"),
    [
        pytest.param("python", 1, [*NAG, *BFLOAT16, *FACTORS, *EVERYTHING], 13, id="nag-everything-alone"),
        pytest.param("horovodrun --gloo", 2, [*FACTORS, *EVERYTHING], 7, id="sgd-everything-2-ranks"),
        pytest.param("horovodrun --gloo", 3, [*ADAM_BY_FP16, *EVERYTHING], 11, id="adam-fp16-everything-3-ranks"),
        pytest.param("python", 1, ["--optimizer.name", "sgd", *PRODUCTS], 6, id="sgd-matrix-products-alone"),
        pytest.param("horovodrun --gloo", 2, [*RECIPE, *EVERYTHING], 11, id="muon-recipe-2-ranks"),
        pytest.param("mpirun", 2, ["--optimizer.name", "adamw", *FACTORS, *EVERYTHING], 9, id="adamw-everything-2-ranks-mpi"),
        pytest.param("mpirun", 2, ["--optimizer.name", "lars"], 5, id="lars-2-ranks-mpi-stopped-at-a-report"),
    ],
)
def test_a_stopped_and_continued_run_ends_with_the_same_bits_and_metrics(
    launcher: str, size: int, flags: list[str], stop_at: int, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    # Only new processes compute in float32 once a process has computed in bfloat16.
    arguments: dict[str, Any] = {"flags": [*TINY, *flags], "own_processes": "--train.precision" in flags}
    expected = call(launcher, size, "training_that_is_stopped", whole, stop_at=None, **arguments)
    stopped = call(launcher, size, "training_that_is_stopped", parts, stop_at=stop_at, stop_rank=size - 1, **arguments)
    assert all(rank["stopped"] and stop_at < rank["step"] <= stop_at + 2 for rank in stopped)
    continued = call(launcher, size, "training_that_is_stopped", parts, stop_at=None, **arguments)
    assert {rank["sha256"] for rank in continued} == {rank["sha256"] for rank in expected}
    assert len({rank["sha256"] for rank in expected}) == 1
    assert metrics(parts) == metrics(whole)


@pytest.mark.parametrize(("launcher", "size"), [("python", 1), ("horovodrun --gloo", 2), ("horovodrun --gloo", 3)])
def test_a_run_that_stops_while_its_loss_scale_is_lowered_ends_with_the_same_bits_and_scales(
    launcher: str, size: int, tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    flags = [*TINY, *EVERYTHING, "--train.loss_scale", "dynamic", "--run.log_every", "1"]
    arguments: dict[str, Any] = {"flags": flags, "overflows": [3, 9, 10, 11]}
    expected = call(launcher, size, "training_that_is_stopped", whole, stop_at=None, **arguments)
    call(launcher, size, "training_that_is_stopped", parts, stop_at=10, stop_rank=size - 1, **arguments)
    continued = call(launcher, size, "training_that_is_stopped", parts, stop_at=None, **arguments)
    assert len({rank["sha256"] for rank in [*continued, *expected]}) == 1
    assert metrics(parts) == metrics(whole)
    reports = {line["step"]: line for line in metrics(whole) if "train/loss" in line}
    assert [step for step, line in reports.items() if line["train/skipped_steps"]] == [4, 10, 11, 12]
    scales = {step: line["optim/loss_scale"] / 2**16 for step, line in reports.items()}
    assert [scales[step] for step in (3, 4, 5, 8, 10, 11, 12, 13, 16)] == [1, 2, 1, 2, 2, 1, 0.5, 0.25, 0.5]


def test_a_late_checkpoint_between_two_reports_changes_nothing_and_a_lost_run_continues_from_it(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    arguments: dict[str, Any] = {"flags": [*TINY, *EVERYTHING], "stop_at": None}
    expected = call("horovodrun --gloo", 2, "training_that_is_stopped", whole, **arguments)
    arguments["flags"] += ["--checkpoint.every_minutes", "1e-9", "--checkpoint.keep_last", "99"]
    for kept in (22, 12):  # 12: the run is lost after this checkpoint
        checkpoints = parts / "runs" / "quickstart" / "checkpoints"
        for step in range(kept + 2, 24, 2):
            shutil.rmtree(checkpoints / f"step-{step:08d}", ignore_errors=True)
        ranks = call("horovodrun --gloo", 2, "training_that_is_stopped", parts, **arguments)
        assert {rank["sha256"] for rank in ranks} == {rank["sha256"] for rank in expected}
        assert metrics(parts) == metrics(whole)
        assert sorted(path.name for path in checkpoints.glob("step-*")) == [f"step-{step:08d}" for step in range(2, 24, 2)]
    assert all(len(rank["taken"]) == 10 for rank in ranks)


def test_a_run_that_continues_with_other_buckets_says_that_its_last_bits_change(tmp_path: Path) -> None:
    warnings = []
    for flags in (["--train.steps", "4"], ["--train.bucket_cap_mb", "0.001"]):
        ranks = call("horovodrun --gloo", 2, "training_that_is_stopped", tmp_path, flags=[*TINY, *flags], stop_at=None)
        warnings.append([line for rank in ranks for line in rank["warnings"] if "its last bits will differ" in line])
    first, (second,) = warnings
    assert first == [] and second.startswith(
        "sent between the ranks: gradients in 1 bucket(s) before, gradients in 4 bucket(s) now; "
    )


def test_a_copy_taken_while_a_step_is_under_way_is_of_that_step(tmp_path: Path) -> None:
    flags = ["--model.name", "vgg11", "--model.stages", "null", "--model.hidden", "[]", "--data.name", "synthetic"]
    flags += ["--data.image_size", "32", "--train.global_batch_size", "32", "--model.batch_norm", "true"]
    assert call("python", 1, "copies_beside_steps", tmp_path, flags=flags, steps=3) == [[]]


def test_a_stop_at_the_end_of_an_epoch_leaves_its_evaluation_to_the_next_start(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    # 60 steps an epoch; the stop request of step 59 is read when step 60 has been handed over.
    arguments: dict[str, Any] = {"flags": [*TINY, "--evaluation.every_epochs", "1", "--train.steps", "70"]}
    call("python", 1, "training_that_is_stopped", whole, stop_at=None, **arguments)
    results = call("python", 1, "training_that_is_stopped", parts, stop_at=58, **arguments)
    assert results[0]["step"] == 60
    assert not [line for line in metrics(parts) if "eval/loss" in line]
    call("python", 1, "training_that_is_stopped", parts, stop_at=None, **arguments)
    assert metrics(parts) == metrics(whole)


def test_on_other_numbers_of_ranks_each_sample_of_the_epoch_is_taken_once(tmp_path: Path) -> None:
    flags = [*TINY, "--data.threads", "1", "--train.steps", "120"]  # two epochs of 60 steps
    taken: list[tuple[int, int]] = []
    for size, stop_at in ((2, 17), (5, 40), (3, 70), (1, None)):
        launcher = "horovodrun --gloo" if size > 1 else "python"
        results = call(launcher, size, "training_that_is_stopped", tmp_path, flags=flags, stop_at=stop_at)
        assert all(rank["stopped"] == (stop_at is not None) for rank in results)
        taken += [(epoch, sample) for rank in results for epoch, samples in rank["taken"] for sample in samples]
    samples = len(taken) // 2
    assert sorted(taken) == [(epoch, sample) for epoch in range(2) for sample in range(samples)]


def test_alone_a_stop_is_exit_code_75_and_the_next_start_continues(tmp_path: Path) -> None:
    running = started("python", tmp_path, size=1)
    running.process.send_signal(signal.SIGINT)
    assert running.finish().code == 75
    step = newest(tmp_path)["step"]
    finished = train("python", 1, tmp_path, *LONG, "--train.steps", str(step + 3))
    assert finished.code == 0 and f"continuing from the checkpoint at step {step}" in finished.output


def test_the_wall_clock_limit_stops_before_it(tmp_path: Path) -> None:
    finished = train("horovodrun --gloo", 2, tmp_path, *LONG, "--run.max_time", "0:00:02")
    assert finished.code == result_of(tmp_path)["exit_code"] == 75, finished.output
    assert "stopped by run.max_time" in result_of(tmp_path)["error"]


def test_metrics_are_on_the_disk_before_each_checkpoint_that_counts_on_them(tmp_path: Path) -> None:
    flags = [*TINY, "--train.steps", "12", "--checkpoint.every_steps", "4", "--checkpoint.keep_last", "9"]
    (done,) = call("python", 1, "order_on_the_disk", tmp_path, flags=flags)
    seen = [name for name in done if name == "sync metrics.jsonl" or name.startswith("rename step-")]
    steps = (4, 8, 12, 12)  # the last one again with what its evaluation has added
    assert seen == [word for step in steps for word in ("sync metrics.jsonl", f"rename step-{step:08d}")]
