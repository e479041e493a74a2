"""The recipes for CIFAR-10 train as their files stand, here for a few small batches of noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images import noise
from tests.launching import HAS_BFLOAT16, result_of, run
from vggdist.checkpoints.trained import read
from vggdist.config.inference import place

_CONFIGS = Path(__file__).parents[2] / "configs"


def _write_images(root: Path) -> None:
    for part, count in {"train": 12, "test": 3}.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(noise(32, 32, 3)).save(root / part / name / f"{index}.png")


@pytest.mark.parametrize("name", ["cifar10_best", "cifar10_fast", "cifar10_vgg11bn"])
def test_a_recipe_trains(name: str, tmp_path: Path) -> None:
    _write_images(tmp_path / "images")
    precision = [] if HAS_BFLOAT16 else ["--train.precision", "float32"]
    flags = ["--data.root", "images", "--train.global_batch_size", "8", "--train.steps", "4", "--evaluation.batch_size", "6"]
    finished = run(
        "python", 1, ["-m", "vggdist.train", "--config", str(_CONFIGS / f"{name}.yaml"), *flags, *precision], tmp_path
    )
    assert finished.code == 0, finished.output
    result = result_of(tmp_path, run_name := name.replace("_", "-"))
    assert result["step"] == 4
    if name != "cifar10_vgg11bn":  # the first layer whitens, and is not trained: its filters are still pairs of opposites
        weight = read(place(str(tmp_path / "runs" / run_name), "latest")).parameters["parameter/vgg_stage1_conv1_weight"]
        half = min(len(weight) // 2, weight[0].size)
        np.testing.assert_array_equal(weight[half : 2 * half], -weight[:half])
    assert all(math.isfinite(result["metrics"][name]) for name in ("train/loss", "eval/loss", "eval/top1(%)"))
