"""The main job under every launcher, as the README has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launching import LAUNCHERS, result_of, run, train


@pytest.mark.slow  # tests/test_readme.py shows it under one launcher
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_quickstart_reaches_98_percent(launcher: str, tmp_path: Path) -> None:
    finished = train(launcher, 2, tmp_path)
    assert finished.code == 0, finished.output
    assert result_of(tmp_path)["metrics"]["eval/top1(%)"] >= 98


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_run_leaves_a_complete_folder(launcher: str, tmp_path: Path) -> None:
    finished = train(launcher, 2, tmp_path, "--train.epochs", "1")
    assert finished.code == 0, finished.output
    assert result_of(tmp_path)["world_size"] == (1 if launcher == "python" else 2)
    run_directory = tmp_path / "runs" / "quickstart"
    assert {path.name for path in run_directory.iterdir()} >= {
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "result.json",
    }
    lines = [json.loads(line) for line in (run_directory / "metrics.jsonl").read_text().splitlines()]
    assert {key for line in lines for key in line} >= {
        "train/loss",
        "train/top1(%)",
        "eval/top1(%)",
        "optim/learning_rate",
        "optim/grad_norm",
        "throughput/images_per_s",
        "time/data_wait(%)",
    }


def test_a_run_repeats_from_its_own_config_file(tmp_path: Path) -> None:
    flags = ["--train.steps", "5", "--optimizer.name", "adam", "--optimizer.learning_rate", "0.001"]
    assert train("python", 1, tmp_path, *flags).code == 0
    first = result_of(tmp_path)["sha256"]
    written = tmp_path / "runs" / "quickstart" / "config.yaml"
    again = train("python", 1, tmp_path, "--config", str(written), "--run.name", "again")
    assert again.code == 0, again.output
    assert result_of(tmp_path, "again")["sha256"] == first


def test_the_same_command_continues_where_the_run_stopped(tmp_path: Path) -> None:
    """With a schedule that does not know the length of the run, 1 + 1 epochs are 2 epochs, bit for bit."""
    flags = ["--schedule.name", "constant", "--model.dropout", "0.5", "--augment.mixup", "0.2"]
    whole = train("horovodrun --gloo", 2, tmp_path, *flags, "--train.epochs", "2", "--run.name", "whole")
    assert whole.code == 0, whole.output
    for epochs in ("1", "2"):
        finished = train("horovodrun --gloo", 2, tmp_path, *flags, "--train.epochs", epochs)
        assert finished.code == 0, finished.output
    assert "continuing from the checkpoint at step 45" in finished.output
    assert result_of(tmp_path)["sha256"] == result_of(tmp_path, "whole")["sha256"]
    steps = [json.loads(line)["step"] for line in (tmp_path / "runs/quickstart/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_checkpoint_of_two_ranks_continues_on_one(tmp_path: Path) -> None:
    assert train("horovodrun --gloo", 2, tmp_path, "--train.steps", "5").code == 0
    finished = train("python", 1, tmp_path, "--train.steps", "8")
    assert finished.code == 0 and "continuing from the checkpoint at step 5" in finished.output, finished.output
    assert result_of(tmp_path)["step"] == 8


def test_resume_never_refuses_to_overwrite_without_being_told(tmp_path: Path) -> None:
    assert train("python", 1, tmp_path, "--train.steps", "1").code == 0
    refused = train("python", 1, tmp_path, "--train.steps", "1", "--run.resume", "never")
    assert refused.code == 2 and "--run.overwrite true" in refused.output
    assert train("python", 1, tmp_path, "--train.steps", "1", "--run.resume", "never", "--run.overwrite", "true").code == 0


def test_nonfinite_steps_are_left_out_where_asked(tmp_path: Path) -> None:
    flags = [
        "--train.nonfinite",
        "skip",
        "--optimizer.learning_rate",
        "1e30",
        "--train.steps",
        "6",
        "--run.log_every",
        "6",
        "--optimizer.momentum",
        "0",
        "--optimizer.weight_decay",
        "0",
        "--model.batch_norm",
        "false",
    ]
    finished = train("horovodrun --gloo", 2, tmp_path, *flags)
    assert finished.code == 0, finished.output
    assert result_of(tmp_path)["metrics"]["train/skipped_steps"] == 5  # all but the first, whose network was still sound


def test_an_error_on_one_rank_alone_reaches_the_console_with_its_rank(tmp_path: Path) -> None:
    script = tmp_path / "one_fails.py"
    script.write_text(
        "import vggdist.train, vggdist.data.sampler as sampler, os\n"
        "real = sampler.make_plan\n"
        "def make_plan(*arguments):\n"
        "    if os.environ['HOROVOD_RANK'] == '1':\n"
        "        raise RuntimeError('a bug on this rank')\n"
        "    return real(*arguments)\n"
        "sampler.make_plan = make_plan\n"
        "raise SystemExit(vggdist.train.main([]))\n"
    )
    finished = run("horovodrun --gloo", 2, [str(script)], tmp_path)
    assert finished.code == 1
    assert "vggdist: rank 1: RuntimeError: a bug on this rank" in finished.output


def test_a_run_that_was_started_anew_can_be_evaluated_from_its_config(tmp_path: Path) -> None:
    assert train("python", 1, tmp_path, "--train.steps", "2", "--run.resume", "never").code == 0
    config = str(tmp_path / "runs" / "quickstart" / "config.yaml")
    finished = run("python", 1, ["-m", "vggdist.evaluate", "--config", config], tmp_path)
    assert finished.code == 0, finished.output
    evaluated = json.loads((tmp_path / "runs" / "quickstart" / "evaluation.json").read_text())
    assert evaluated["metrics"]["eval/loss"] == result_of(tmp_path)["metrics"]["eval/loss"]
