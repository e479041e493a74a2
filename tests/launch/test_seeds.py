"""The experiments of the tutorials train as their files stand, here for one small batch of noise in the usual formats."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.images import write_fashion_mnist
from tests.launching import Finished, result_of, run
from tests.rank_pool import train

_SEEDS = Path(__file__).parents[2] / "configs" / "seeds"
_BATCH = 4  # a whole one takes a minute and, with VGG-16, gigabytes
_CIFAR_ROWS = 1  # images in each of CIFAR-10's six files: five make a batch

# CIFAR's reader takes files of 10,000 images only; to evaluate so many would take some twenty minutes.
_TRAIN_ON_SHORT_FILES = f"""
import sys
from dataclasses import replace
import vggdist.train
from vggdist.data import cifar
cifar.CIFAR["cifar10"] = [
    replace(files, train=dict.fromkeys(files.train, {_CIFAR_ROWS}), test=dict.fromkeys(files.test, {_CIFAR_ROWS}))
    for files in cifar.CIFAR["cifar10"]
]
sys.exit(vggdist.train.main())
"""


def _write_cifar10(root: Path) -> None:
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]:
        labels, pixels = random.integers(0, 10, (_CIFAR_ROWS, 1)), random.integers(0, 256, (_CIFAR_ROWS, 3072))
        (folder / name).write_bytes(np.hstack([labels, pixels]).astype(np.uint8).tobytes())
    (folder / "batches.meta.txt").write_text("".join(f"class{label}\n" for label in range(10)))


def _train_one_step(file: Path, cwd: Path) -> Finished:
    asked = yaml.safe_load(file.read_text())
    flags = ["--config", str(file), "--data.root", "images", "--train.steps", "1"]
    flags += ["--train.batch_size", str(_BATCH), "--evaluation.batch_size", str(_BATCH)]
    if asked["data"]["name"] == "cifar10":
        _write_cifar10(cwd / "images")
        (cwd / "short.py").write_text(_TRAIN_ON_SHORT_FILES)
        return run("python", 1, ["short.py", *flags], cwd)
    write_fashion_mnist(cwd / "images", _BATCH)
    return train("python", 1, cwd, *flags)


@pytest.mark.parametrize("file", sorted(_SEEDS.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_configuration_of_the_tutorials_trains(file: Path, tmp_path: Path) -> None:
    asked = yaml.safe_load(file.read_text())
    finished = _train_one_step(file, tmp_path)
    assert finished.code == 0, finished.output
    result = result_of(tmp_path, asked["run"]["name"])
    assert result["step"] == 1
    parts = ["eval", "eval_train"] if asked.get("evaluation", {}).get("training_set") else ["eval"]
    wanted = {f"{part}/{name}" for part in parts for name in ("loss", "top1(%)", "macro_f1")} | {
        "train/loss",
        "train/loss_moving_average",
    }
    assert result["metrics"].keys() >= wanted
    assert math.isfinite(result["metrics"]["train/loss"])
    lines = (tmp_path / "runs" / asked["run"]["name"] / "metrics.jsonl").read_text().splitlines()
    assert {key for line in lines for key in json.loads(line)} >= wanted
