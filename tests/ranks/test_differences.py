"""A rank that differs from the others ends the run, and is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.launching import named, result_of
from tests.rank_pool import call
from vggdist.reporting.result import read_outcome

FLAGS = [
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--train.global_batch_size", "24"),
    *("--train.steps", "12"),
    *("--evaluation.every_epochs", "0"),
]


def error_of_a_run(folder: Path, difference: str, *flags: str) -> str:
    """Train two ranks of which the second one differs; returns the recorded error."""
    environment = {"VGGDIST_OUTCOME": str(folder / "outcome")}
    arguments: dict[str, Any] = {"name": "train", "words": named([*FLAGS, *flags]), "environment": environment}
    ranks = call("horovodrun --gloo", 2, "command_with_a_difference", folder, difference=difference, rank=1, **arguments)
    assert [rank["code"] for rank in ranks] == [1, 1], ranks
    outcome = read_outcome(folder / "outcome")
    assert outcome is not None
    return outcome.error


def test_ranks_that_drift_apart_end_the_run_naming_rank_and_tensor(tmp_path: Path) -> None:
    error = error_of_a_run(tmp_path, "drift", "--run.drift_steps", "10")
    assert "rank 1 differs from rank 0 in its parameters after step 10" in error and "parameter/" in error
    assert result_of(tmp_path)["error"] == error


def test_without_the_comparison_the_end_of_the_run_finds_the_drift(tmp_path: Path) -> None:
    error = error_of_a_run(tmp_path, "drift", "--run.drift_steps", "0")
    assert "rank 1 differs from rank 0 in its final parameters" in error


def test_a_rank_that_would_fuse_other_gradients_is_named(tmp_path: Path) -> None:
    error = error_of_a_run(tmp_path, "fusion")
    assert f"rank 1 differs from rank 0 in HOROVOD_FUSION_THRESHOLD: '7' instead of '{2 * 2**20}'" in error
