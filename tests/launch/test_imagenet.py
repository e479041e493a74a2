"""The configurations for ImageNet train as their files stand, here for one step of a narrow network on a few records."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.launching import result_of
from tests.rank_pool import train
from vggdist import prepare

_CONFIGS = Path(__file__).parents[2] / "configs" / "imagenet"
# What makes one step of it short; the warm-up has to fit into that step.
_SHORT = {
    "model.width_divisor": "64",
    "model.hidden": "[8]",
    "train.steps": "1",
    "train.batch_size": "4",
    "train.global_batch_size": "4",
    "evaluation.batch_size": "10",
    "schedule.warmup_epochs": "0",
    "data.threads": "1",
}


def _prepare_records(cwd: Path) -> None:
    """By the command that the files' heads name."""
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 1)):
        for name in ("n01440764", "n01443537"):
            folder = cwd / "ILSVRC2012" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (30 + number, 40, 3), np.uint8)
                Image.fromarray(pixels).resize((540, 400 + 30 * number)).save(folder / f"{number}.JPEG")
    arguments = [str(cwd / "ILSVRC2012"), str(cwd / "data" / "imagenet"), "--short-side", "512", "--quality", "90"]
    assert prepare.main(arguments) == 0


def test_there_are_configurations_to_test() -> None:
    assert {path.stem for path in _CONFIGS.glob("*.yaml")} == {"vgg16_paper", "vgg16_modern"}


@pytest.mark.parametrize(("name", "batch_norm"), [("vgg16_paper", "false"), ("vgg16_modern", "true")])
def test_a_configuration_for_imagenet_trains_and_is_measured_in_ten_crops(name: str, batch_norm: str, tmp_path: Path) -> None:
    _prepare_records(tmp_path)
    asked = _SHORT | {"model.batch_norm": batch_norm, "evaluation.crops": "10", "run.name": "short"}
    flags = [word for key, value in asked.items() for word in (f"--{key}", value)]
    finished = train("python", 1, tmp_path, "--config", str(_CONFIGS / f"{name}.yaml"), *flags)
    assert finished.code == 0, finished.output
    result = result_of(tmp_path, "short")
    assert result["step"] == 1
    assert math.isfinite(result["metrics"]["train/loss"]) and math.isfinite(result["metrics"]["eval/loss"])
