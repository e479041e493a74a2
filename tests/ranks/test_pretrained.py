"""Ranks that begin with known weights: rank 0 alone has the file, all hold the same network, and a stop changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.rank_pool import call, train
from tests.torch_files import tensors, write_zip

_WIDTHS = ((0, 3, 8), (4, 8, 8), (8, 8, 16))
FLAGS = [
    *("--model.stages", "[[2, 8], [1, 16]]", "--model.hidden", "[32]", "--model.batch_norm", "true"),
    *("--data.channels", "3", "--train.global_batch_size", "24", "--train.steps", "16", "--run.log_every", "5"),
    *("--evaluation.every_epochs", "0", "--model.freeze", "1", "--optimizer.backbone_rate", "0.1", "--augment.pad_crop", "1"),
]


def torch_file(path: Path) -> None:
    """A ``.pth`` with torchvision's names: three convolutions with their normalisations."""
    random, arrays = np.random.default_rng(0), {}
    for number, inputs, outputs in _WIDTHS:
        arrays[f"features.{number}.weight"] = random.normal(0, 0.2, (outputs, inputs, 3, 3))
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5), ("running_var", 0.5)):
            arrays[f"features.{number + 1}.{name}"] = random.uniform(low, low + 1, outputs)
    write_zip(path, tensors({name: array.astype(np.float32) for name, array in arrays.items()}))


def test_a_fine_tuning_that_is_stopped_and_continued_without_its_file_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    torch_file(file := tmp_path / "vgg.pth")
    arguments: dict[str, Any] = {"flags": [*FLAGS, "--model.pretrained", str(file)]}
    expected = call("horovodrun --gloo", 2, "training_that_is_stopped", whole, stop_at=None, **arguments)
    assert len({rank["sha256"] for rank in expected}) == 1
    stopped = call("horovodrun --gloo", 2, "training_that_is_stopped", parts, stop_at=7, stop_rank=1, **arguments)
    assert all(rank["stopped"] for rank in stopped)
    file.unlink()
    continued = call("horovodrun --gloo", 2, "training_that_is_stopped", parts, stop_at=None, **arguments)
    assert {rank["sha256"] for rank in continued} == {rank["sha256"] for rank in expected}


def test_the_command_logs_what_was_taken_and_what_was_not(tmp_path: Path) -> None:
    torch_file(tmp_path / "vgg.pth")
    finished = train("python", 1, tmp_path, *FLAGS, "--model.pretrained", "vgg.pth", "--train.steps", "2")
    assert finished.code == 0, finished.output
    for line in (
        "from vgg.pth: stage1.conv1, stage1.conv2, stage2.conv1\n",
        "initialised, not pretrained: hidden1, output (the file has another number of fully connected layers)\n",
        "stage1.conv2 (frozen)",
    ):
        assert line in finished.output, finished.output
