"""Training runs as a whole: what they leave, how they continue, and how they end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import launching
from tests.launching import LAUNCHERS, result_of, run
from tests.rank_pool import command, train


@pytest.mark.slow  # tests/test_readme.py shows it under one launcher
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_quickstart_reaches_98_percent(launcher: str, tmp_path: Path) -> None:
    finished = launching.train(launcher, 2, tmp_path)
    assert finished.code == 0, finished.output
    assert result_of(tmp_path)["metrics"]["eval/top1(%)"] >= 98


def test_a_run_of_two_ranks_leaves_a_complete_folder_and_continues_on_one(tmp_path: Path) -> None:
    """The folder under each launcher: test_scripts.py, tests/test_readme.py."""
    finished = train("horovodrun --gloo", 2, tmp_path, "--train.epochs", "1")
    assert finished.code == 0, finished.output
    assert result_of(tmp_path)["world_size"] == 2
    require_complete(tmp_path / "runs" / "quickstart")
    finished = train("python", 1, tmp_path, "--train.steps", "48")
    assert finished.code == 0 and "continuing from the checkpoint at step 45" in finished.output, finished.output
    assert (result_of(tmp_path)["step"], result_of(tmp_path)["world_size"]) == (48, 1)


def test_a_run_of_one_process_without_a_launcher_leaves_a_complete_folder(tmp_path: Path) -> None:
    finished = train("python", 1, tmp_path, "--train.epochs", "1")
    assert finished.code == 0, finished.output
    assert result_of(tmp_path)["world_size"] == 1
    require_complete(tmp_path / "runs" / "quickstart")


def require_complete(run_directory: Path) -> None:
    """Check that a run which one job has trained left all its files, metrics of training and evaluation included."""
    assert {path.name for path in run_directory.iterdir()} >= {
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
        "checkpoints",
        "result.json",
    }
    assert len(list(run_directory.glob("events.out.tfevents.*"))) == 1
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


def test_a_run_that_is_over_says_why_and_which_setting_makes_it_go_on(tmp_path: Path) -> None:
    flags = ["--data.name", "digits", "--model.name", "custom", "--model.stages", "[[1, 4]]", "--model.hidden", "[]"]
    flags += [
        "--run.name",
        "a",
        "--optimizer.learning_rate",
        "1e-12",
        "--train.epochs",
        "5",
        "--train.global_batch_size",
        "100",
    ]
    first = train("python", 1, tmp_path, *flags, "--data.validation", "0.1", "--train.patience", "1")
    assert first.code == 0, first.output
    why = "no evaluation since step 13 was better; raise train.patience to train longer"
    assert f"ended at step 26 of 65: {why}" in first.output and "finished in" in first.output
    before = result_of(tmp_path, "a")
    again = train("python", 1, tmp_path, *flags, "--data.validation", "0.1", "--train.patience", "1")
    assert again.code == 0 and f"already finished at step 26: {why}" in again.output, again.output
    assert "finished in" not in again.output and "set after epoch" not in again.output
    after = result_of(tmp_path, "a")
    assert (
        after["sha256"] == before["sha256"] and after["metrics"] == before["metrics"] and after["best"]["part"] == "validation"
    )
    assert "eval/top1(%)" in after["metrics"]
    events = EventAccumulator(str(tmp_path / "runs" / "a"), {"images": 0, "tensors": 0})
    events.Reload()
    assert len(events.Tensors("configuration")) == 1 and "_hparams_/session_start_info" in events.summary_metadata
    assert [picture.step for picture in events.Images("confusion/validation")] == [13, 26]
    assert [picture.step for picture in events.Images("mistakes")] == [26]


def test_resume_never_refuses_to_overwrite_without_being_asked(tmp_path: Path) -> None:
    once, never = ("--train.steps", "1"), ("--run.resume", "never")
    assert train("python", 1, tmp_path, *once).code == 0
    refused = train("python", 1, tmp_path, *once, *never)
    assert refused.code == 2 and "--run.overwrite true" in refused.output
    assert train("python", 1, tmp_path, *once, *never, "--run.overwrite", "true").code == 0


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


def test_a_run_is_evaluated_the_same_by_any_number_of_ranks_and_without_its_training_files(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(40):
        path = images / ("train" if number < 30 else "test") / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 100 + 90 * (number % 2), (8, 8), np.uint8)).save(path)
    small = ["--model.name", "custom", "--model.stages", "[[1, 8]]", "--model.hidden", "[]", "--run.name", "a"]
    flags = ["--data.name", "folder", "--data.root", "images", "--data.channels", "1", "--train.batch_size", "10"]
    flags += ["--evaluation.views", "6"]  # as every setting of an evaluation, the default of vggdist evaluate
    flags += ["--optimizer.ema_decay", "0.9"]  # the command has to take the average from the checkpoint
    assert train("python", 1, tmp_path, *small, *flags, "--run.resume", "never").code == 0
    trained, run_folder = result_of(tmp_path, "a"), tmp_path / "runs" / "a"
    shutil.rmtree(images / "train")
    (run_folder / "result.json").unlink()
    results = {}
    for launcher, size in (("python", 1), ("horovodrun --gloo", 2)):
        place = tmp_path / f"by {size}"
        finished = command(launcher, size, "evaluate", tmp_path, "runs/a", "--checkpoint", "latest", "--output", str(place))
        assert finished.code == 0, finished.output
        assert "accuracy(%)  precision(%)" in finished.output
        results[size] = json.loads((place / "evaluation.json").read_text()), (place / "predictions.csv").read_text()
        assert (place / "confusion.png").read_bytes().startswith(b"\x89PNG")
    assert results[1][1] == results[2][1] and "images/test/b/39.png,b," in results[1][1]
    differing = {key for key, value in results[1][0].items() if results[2][0][key] != value}
    assert differing <= {"world_size", "written_at"} and results[2][0]["world_size"] == 2
    metrics = {name.replace("test/", "eval/"): value for name, value in results[1][0]["metrics"].items()}
    assert metrics.items() <= trained["metrics"].items()
    assert results[1][0]["checkpoint"]["sha256"] == trained["sha256"] and results[1][0]["images"] == 10
    assert not (run_folder / "result.json").exists()


@pytest.mark.parametrize("module", ["vggdist.train", "vggdist"])
def test_signals_while_a_finished_process_ends_do_not_make_a_failure_of_it(module: str, tmp_path: Path) -> None:
    words = [*(["train"] if module == "vggdist" else []), "--train.steps", "1"]
    script = (
        "import atexit, os, runpy, signal, sys\n"
        "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):\n"
        "    atexit.register(os.kill, os.getpid(), number)\n"
        f"sys.argv[1:] = {words!r}\n"
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
    )
    ended = run("python", 1, ["-c", script], tmp_path)
    assert ended.code == 0 and result_of(tmp_path)["exit_code"] == 0, ended.output
