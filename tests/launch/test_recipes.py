"""The recipes for CIFAR-10 train as their files stand, here for a few small batches of noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.images import noise
from tests.launching import result_of, run
from vggdist.checkpoints import contents
from vggdist.checkpoints.trained import read
from vggdist.config.errors import written
from vggdist.config.inference import place

_CONFIGS = Path(__file__).parents[2] / "configs"
_FASTEST = "bfloat16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "float32"


def _write_images(root: Path) -> None:
    for part, count in {"train": 12, "test": 3}.items():
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(noise(32, 32, 3)).save(root / part / name / f"{index}.png")


@pytest.mark.parametrize("name", ["cifar10_best", "cifar10_fast", "cifar10_vgg11bn"])
def test_a_recipe_trains(name: str, tmp_path: Path) -> None:
    _write_images(tmp_path / "images")
    flags = ["--data.root", "images", "--train.global_batch_size", "8", "--train.steps", "4", "--evaluation.batch_size", "6"]
    finished = run("python", 1, ["-m", "vggdist.train", "--config", str(_CONFIGS / f"{name}.yaml"), *flags], tmp_path)
    assert finished.code == 0, finished.output
    result = result_of(tmp_path, run_name := name.replace("_", "-"))
    assert result["step"] == 4
    trained = read(place(str(tmp_path / "runs" / run_name), "latest"))
    is_automatic = name != "cifar10_vgg11bn"
    assert (f"train.precision auto: {_FASTEST}" in finished.output) == is_automatic
    saved = contents.read(Path(trained.path)).state["settings"]["train.precision"]  # compared when the run continues
    assert saved == written(_FASTEST if is_automatic else "float32")
    if name != "cifar10_vgg11bn":  # the first layer whitens, and is not trained: its filters are still pairs of opposites
        weight = trained.parameters["parameter/vgg_stage1_conv1_weight"]
        half = min(len(weight) // 2, weight[0].size)
        np.testing.assert_array_equal(weight[half : 2 * half], -weight[:half])
    assert all(math.isfinite(result["metrics"][name]) for name in ("train/loss", "eval/loss", "eval/top1(%)"))


def test_a_recipe_s_network_is_used_on_any_cpu_without_a_setting(tmp_path: Path) -> None:
    """Its run has ``train.precision auto``; each command is a process of its own, since bfloat16 stays in a process."""
    _write_images(tmp_path / "images")
    flags = ["--config", str(_CONFIGS / "cifar10_fast.yaml"), "--train.global_batch_size", "8", "--train.steps", "1"]
    flags += ["--evaluation.batch_size", "6"]
    assert run("python", 1, ["-m", "vggdist.train", *flags, "--data.root", "images"], tmp_path).code == 0
    for command in (["predict", "runs/cifar10-fast", "images/test/cat/0.png"], ["evaluate", "runs/cifar10-fast"]):
        used = run("python", 1, ["-m", "vggdist", *command], tmp_path)
        assert used.code == 0, used.output
