"""The benchmarks run under the launchers, and leave a table, a JSON file and nothing else."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.launching import DEADLINE, Running, command_line, run
from tests.rank_pool import command
from vggdist import bench

SMALL = [
    *("--model.name", "custom", "--model.stages", "[[1, 8], [1, 8]]", "--model.hidden", "[16]", "--model.batch_norm", "true"),
    *("--data.name", "synthetic", "--data.image_size", "8", "--data.synthetic_samples", "64", "--train.batch_size", "8"),
]
_RUN = Path("runs", "custom-synthetic")
"""Of a run with this network and these data."""
QUICK = [*SMALL, "--bench.repeats", "2", "--bench.steps", "4", "--bench.warmup", "2", "--run.log_every", "2"]


@pytest.mark.parametrize(("launcher", "size"), [("python", 1), ("horovodrun --gloo", 2)])
def test_the_step_is_measured_alone_and_within_the_training(tmp_path: Path, launcher: str, size: int) -> None:
    done = command(launcher, size, "bench", tmp_path, "step", *QUICK)
    assert done.code == 0 and "training / bare step" in done.output, done.output
    folder = tmp_path / _RUN
    result = json.loads((folder / "bench-step.json").read_text())
    assert "other processes used" in done.output and 0 <= result["others(%)"] <= 100
    assert result["world_size"] == size and len(result["bare"]["repeats"]) == len(result["training"]["repeats"]) == 2
    for bare, training, ratio in zip(*(result[name]["repeats"] for name in ("bare", "training", "ratio"))):
        assert bare > 0 and ratio == pytest.approx(training / bare)
    shares = result["shares"]
    assert len(shares) == size and all((rank["allreduce(%)"]["median"] == 0) == (size == 1) for rank in shares)
    assert all(sum(series["repeats"][0] for series in rank.values()) == pytest.approx(100) for rank in shares)
    assert {path.name for path in folder.iterdir()} == {"bench-step.json", "bench-step.png", "bench"}


def test_a_measurement_that_is_stopped_says_so_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    flags = [*SMALL, "--bench.steps", "2000", "--bench.warmup", "2", "--run.log_every", "2", "--checkpoint.every_steps", "2"]
    words = [*command_line("python", 1), "-m", "vggdist.bench", "step", *flags]
    running = Running(words, tmp_path, DEADLINE)
    running.wait_for(lambda: any((tmp_path / _RUN).glob("bench-*/checkpoints/step-*")))
    running.process.send_signal(signal.SIGTERM)
    finished = running.finish()
    assert finished.code == 1 and "vggdist: stopped before the measurement was complete" in finished.output
    assert not [*(tmp_path / _RUN).glob("bench-*")]


@pytest.mark.parametrize("launcher", ["horovodrun --gloo", "mpirun"])
def test_the_reduction_is_measured_on_the_network_s_gradients(tmp_path: Path, launcher: str) -> None:
    done = command(launcher, 2, "bench", tmp_path, "allreduce", *QUICK, "--model.head", "global_average")
    assert done.code == 0 and "for vggdist plan: latency" in done.output, done.output
    result = json.loads((tmp_path / _RUN / "bench-allreduce.json").read_text())
    sizes = [row["bytes"] for row in result["sizes"]]
    assert sizes == sorted(sizes) and result["sizes"][-1]["layers"] == ["all"]
    assert all(("mpi" in row) == (launcher == "mpirun") and row["horovod"]["median"] > 0 for row in result["sizes"])


def test_one_rank_cannot_measure_a_reduction(tmp_path: Path) -> None:
    done = command("python", 1, "bench", tmp_path, "allreduce")
    assert done.code == 2 and "one rank has nothing to reduce" in done.output


@pytest.mark.parametrize("kind", ["step", "input", "scaling"])
def test_a_folder_that_cannot_be_written_is_an_invalid_request(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command("python", 1, "bench", tmp_path, kind, *QUICK, "--bench.ranks", "[1]", "--run.directory", "file")
    assert done.code == 2 and "Not a directory: 'file" in done.output and "Traceback" not in done.output, done.output


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), ([], 2), (["speed"], 2)])
def test_without_a_kind_the_kinds_are_listed(arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(arguments) == code
    printed = capsys.readouterr().out
    assert "bare step" in printed and "allreduce" in printed


def test_help_lists_the_benchmark_s_options(tmp_path: Path) -> None:
    done = run("python", 1, ["-m", "vggdist.bench", "step", "--help"], tmp_path)
    assert done.code == 0 and "--bench.repeats" in done.output and "--model.name" in done.output


@pytest.mark.parametrize(("launcher", "size"), [("python", 1), ("horovodrun --gloo", 2)])
def test_the_input_is_measured_for_each_number_of_threads_without_a_network(tmp_path: Path, launcher: str, size: int) -> None:
    done = command(launcher, size, "bench", tmp_path, "input", *QUICK, "--bench.threads", "[1,3]")
    assert done.code == 0 and "ms of a core for an image" in done.output, done.output
    assert "parameters" not in done.output  # the summary of a network
    result = json.loads((tmp_path / _RUN / "bench-input.json").read_text())
    assert result["world_size"] == size and [row["threads"] for row in result["threads"]] == [1, 3]
    assert all(len(row[key]["repeats"]) == 2 for row in result["threads"] for key in ("images_per_s", "core_ms_per_image"))


def test_a_profile_holds_the_network_s_operators_and_the_reductions(tmp_path: Path) -> None:
    done = run("horovodrun --gloo", 2, ["-m", "vggdist.bench", "profile", *QUICK], tmp_path)
    assert done.code == 0 and "perfetto" in done.output, done.output
    folder = tmp_path / _RUN
    for rank in range(2):
        trace = json.loads((folder / f"profile-mxnet-{rank}.json").read_text())
        names = {event["name"] for event in trace["traceEvents"]}
        assert {
            "Convolution",
            "_backward_Convolution",
            "Pooling",
            "BatchNorm",
            "FullyConnected",
            "horovod_allreduce",
        } <= names
    timeline = json.loads((folder / "profile-horovod.json").read_text())
    names = {event.get("name") for event in timeline}
    reduced = [event["args"].get("name", "") for event in timeline if event.get("name") == "process_name"]
    assert {"NEGOTIATE_ALLREDUCE", "GLOO_ALLREDUCE"} <= names
    assert any("gradients" in name for name in reduced)


def test_scaling_starts_its_ranks_and_compares_them(tmp_path: Path) -> None:
    flags = ["--bench.ranks", "[2]", "--bench.repeats", "1", "--bench.launcher", "horovodrun --gloo"]
    done = run("python", 1, ["-m", "vggdist.bench", "scaling", *QUICK, *flags], tmp_path)
    assert done.code == 0 and "efficiency(%)" in done.output, done.output
    folder = tmp_path / _RUN
    result = json.loads((folder / "bench-scaling.json").read_text())
    assert result["controller"] == "Gloo" and [row["ranks"] for row in result["weak"]] == [2]
    assert len(result["weak"][0]["shares"]) == 2 and result["weak"][0]["efficiency(%)"]["repeats"] == [100]
    assert {path.name for path in folder.iterdir()} == {"bench-scaling.json", "bench-scaling.png", "bench"}


def test_scaling_that_is_terminated_ends_its_job(tmp_path: Path) -> None:
    launcher, begun = tmp_path / "launcher", tmp_path / "begun"
    launcher.write_text(f"#!/bin/sh\ntouch {begun}\nexec sleep 100\n")
    launcher.chmod(0o755)
    command = [*command_line("python", 1), "-m", "vggdist.bench", "scaling", "--bench.launcher", str(launcher)]
    running = Running(command, tmp_path, 60)
    running.wait_for(begun.exists)
    running.process.terminate()
    done = running.finish()
    assert done.code == 1 and "interrupted" in done.output
    assert not [*tmp_path.rglob("bench-scaling.json")]


@pytest.mark.parametrize("kind", ["scaling", "tune"])
def test_a_benchmark_that_starts_its_ranks_itself_refuses_a_launcher(kind: str, tmp_path: Path) -> None:
    done = command("python", 1, "bench", tmp_path, kind, HOROVOD_RANK="0", HOROVOD_SIZE="2")
    assert done.code == 2 and f"bench {kind} starts the ranks itself; start it once, without a launcher" in done.output


def test_tuning_tries_what_the_user_has_not_set_and_names_no_winner_of_one_job_each(tmp_path: Path) -> None:
    mine = {"HOROVOD_CYCLE_TIME": "1", "HOROVOD_FUSION_THRESHOLD": "0", "OMP_NUM_THREADS": "1"}
    launcher = " ".join(command_line("horovodrun --gloo", 2)[:-3])  # without -np
    flags = ["--bench.repeats", "1", "--bench.launcher", launcher, "--world.preset", "none"]
    flags += ["--train.bucket_cap_mb", ".inf"]
    done = run("python", 1, ["-m", "vggdist.bench", "tune", *QUICK, *flags], tmp_path, DEADLINE, **mine)
    assert done.code == 0 and "no setting is faster beyond the spread" in done.output, done.output
    result = json.loads((tmp_path / _RUN / "bench-tune.json").read_text())
    assert [trial["setting"] for trial in result["trials"]] == ["unchanged", "--train.bucket_cap_mb 1"]
    assert all(trial["images_per_s"]["median"] > 0 and trial["failed"] is None for trial in result["trials"])
    assert result["environment"].items() >= mine.items() and result["ranks"] == 2
    assert [path.name for path in (tmp_path / _RUN).iterdir()] == ["bench-tune.json"]


def test_tuning_gives_a_job_no_more_than_its_deadline(tmp_path: Path) -> None:
    flags = ["--bench.deadline", "0.5", "--bench.launcher", "horovodrun --gloo"]
    done = run("python", 1, ["-m", "vggdist.bench", "tune", *QUICK, *flags], tmp_path)
    assert done.code == 1 and "did not finish within 0.5 s (bench.deadline)" in done.output, done.output
