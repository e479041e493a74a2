"""Evaluation counts every sample once, on any number of ranks."""

from __future__ import annotations

from pathlib import Path

from tests.rank_pool import call

FLAGS = [
    "--data.name",
    "synthetic",
    "--data.synthetic_samples",
    "3988",
    "--data.image_size",
    "8",
    "--model.name",
    "custom",
    "--model.stages",
    "[[1, 8]]",
    "--model.hidden",
    "[]",
    "--evaluation.batch_size",
    "64",
]


def test_one_two_and_three_ranks_count_997_samples_to_the_same_integers(tmp_path: Path) -> None:
    results = [
        call(launcher, size, "evaluation_sums", tmp_path, flags=FLAGS)
        for launcher, size in (("python", 1), ("horovodrun --gloo", 2), ("horovodrun --gloo", 3))
    ]
    reference = results[0][0]
    assert reference["samples"] == reference["sums"][0] == 997
    assert all(rank == reference for ranks in results for rank in ranks)
