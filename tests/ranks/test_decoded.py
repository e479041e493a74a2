"""Images that are decoded each time they are read train as every other source does, on any ranks and after a stop."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.launching import result_of
from tests.rank_pool import call, train
from vggdist import prepare
from vggdist.checkpoints.store import CheckpointStore

STEPS, STOP_AT = 12, 5  # of two epochs
FLAGS = [
    *("--model.name", "custom"),
    *("--model.stages", "[[1, 8], [1, 16]]"),
    *("--model.hidden", "[32]"),
    *("--model.batch_norm", "false"),
    *("--model.dropout", "0"),
    *("--data.image_size", "16"),
    *("--augment.random_resized_crop", "true"),
    *("--augment.flip", "true"),
    *("--augment.normalize", "computed"),
    *("--train.global_batch_size", "8"),
    *("--train.steps", str(STEPS)),
    *("--evaluation.every_epochs", "0"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 47 training images of several sizes and 4 test images in a folder and in record files."""
    places = {name: tmp_path_factory.mktemp(name) for name in ("folder", "records")}
    random = np.random.default_rng(0)
    for part, count in (("train", 47), ("test", 4)):
        for number in range(count):
            path = places["folder"] / part / f"class {number % 2}" / f"{number:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (24 + number % 17, 40 - number % 13)
            pixels = random.integers(0, 256, (4, 4, 3), np.uint8) // 2 + 100 * np.uint8(number % 2)
            Image.fromarray(pixels).resize(size).save(path)
    assert prepare.main([str(places["folder"]), str(places["records"])]) == 0
    return places


@dataclass
class Trained:
    """A run: the results of its ranks, and the arrays of its newest checkpoint."""

    ranks: list[Any]
    arrays: dict[str, np.ndarray]

    @property
    def sha256(self) -> set[str]:
        return {rank["sha256"] for rank in self.ranks}


def trained(place: Path, images: dict[str, Path], name: str, size: int, stop_at: int | None = None) -> Trained:
    launcher = "horovodrun --gloo" if size > 1 else "python"
    flags = [*FLAGS, "--run.name", "decoded", "--data.name", name, "--data.root", str(images[name])]
    ranks = call(launcher, size, "training_that_is_stopped", place, flags=flags, stop_at=stop_at, stop_rank=size - 1)
    checkpoint = CheckpointStore(place / "runs" / "decoded" / "checkpoints").newest()
    assert checkpoint is not None
    return Trained(ranks, dict(checkpoint.arrays))


def test_two_ranks_on_records_equal_one_on_the_folder_and_a_stopped_run_goes_on_bit_for_bit(
    images: dict[str, Path], tmp_path: Path
) -> None:
    places = [tmp_path / name for name in ("one", "two", "parts")]
    for place in places:
        place.mkdir()
    one = trained(places[0], images, "folder", 1)
    two = trained(places[1], images, "records", 2)
    stopped = trained(places[2], images, "records", 2, STOP_AT)
    assert stopped.ranks[0]["stopped"] and stopped.ranks[0]["step"] < STEPS
    assert max(np.abs(two.arrays[name] - stopped.arrays[name]).max() for name in two.arrays) > 1e-2, "nothing was learned"
    for name, values in one.arrays.items():
        np.testing.assert_allclose(two.arrays[name], values, rtol=0, atol=1e-5, err_msg=name)
    assert len(two.sha256) == 1 and trained(places[2], images, "folder", 2).sha256 == two.sha256


def test_damaged_images_are_left_out_on_all_ranks_named_once_and_counted(images: dict[str, Path], tmp_path: Path) -> None:
    root = shutil.copytree(images["folder"], tmp_path / "damaged")
    damaged = root / "train" / "class 1" / "03.jpg"
    damaged.write_bytes(damaged.read_bytes()[:300])
    flags = [*FLAGS, "--data.name", "folder", "--data.root", str(root), "--data.damaged", "skip", "--train.steps", "2"]
    finished = train("horovodrun --gloo", 2, tmp_path, *flags)
    assert finished.code == 0, finished.output
    assert finished.output.count(f"left out: {damaged} (300 bytes)") == 1, finished.output
    assert "1 of 47 training images are damaged and left out" in (tmp_path / "runs/quickstart/log.txt").read_text()
    assert result_of(tmp_path)["left_out"] == {"train": 1, "test": 0}
