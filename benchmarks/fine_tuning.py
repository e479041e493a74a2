"""Accuracy with and without pretrained weights: ``.venv/bin/python benchmarks/fine_tuning.py DIR``.

DIR has CIFAR-10 as images, ``train/<class>/`` and ``test/<class>/``. For each seed a narrow VGG-11 is trained on the first
eight classes. Then networks are trained on 100 images of each of the other two classes, from scratch and from those weights
with several settings, all with the same steps, batches and augmentation. Top-1 is over all test images of these two classes.
docs/fine-tuning.md has the results.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import vggdist

Part = tuple[np.ndarray, np.ndarray]

RATES = (0.01, 0.03)
"""Learning rates; the table has the best one of each row, on average over the seeds."""
WAYS = {
    "from scratch": (0, 1.0),
    "--model.pretrained": (0, 1.0),
    "--model.pretrained --optimizer.backbone_rate 0.1": (0, 0.1),
    "--model.pretrained --model.freeze 3": (3, 1.0),
}
"""Frozen stages, and the learning rate of the loaded layers as a multiple of that of the new ones."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, metavar="DIR", help="CIFAR-10 as images in folders")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=3, help="over the eight classes (default: %(default)s)")
    parser.add_argument("--images", type=int, default=100, help="of each new class (default: %(default)s)")
    options = parser.parse_args()
    names = sorted(folder.name for folder in (options.root / "train").iterdir())
    data = {name: read(options.root, name, names) for name in ("train", "test")}
    eight = {name: chosen(part, range(8)) for name, part in data.items()}
    found: dict[tuple[str, float], list[float]] = {(way, rate): [] for way in WAYS for rate in RATES}
    with tempfile.TemporaryDirectory() as runs:
        for seed in range(options.seeds):
            top1 = train(Path(runs), f"eight-{seed}", seed, eight, options.epochs, 64, 0.02)
            print(f"seed {seed}: {top1:.2f} % of the eight classes' test images", flush=True)
            few = {"train": some(chosen(data["train"], (8, 9)), options.images, seed), "test": chosen(data["test"], (8, 9))}
            for number, ((way, rate), values) in enumerate(found.items()):
                freeze, factor = WAYS[way]
                begin = None if way == "from scratch" else str(Path(runs) / f"eight-{seed}")
                values.append(train(Path(runs), f"two-{seed}-{number}", seed, few, 30, 20, rate, begin, freeze, factor))
                print(f"seed {seed}, {way}, learning rate {rate:g}: {values[-1]:.2f} %", flush=True)
    print(table(found))


def train(
    runs: Path,
    name: str,
    seed: int,
    data: dict[str, Part],
    epochs: int,
    batch_size: int,
    rate: float,
    begin: str | None = None,
    freeze: int = 0,
    factor: float = 1.0,
) -> float:
    """Top-1 in percent at the end of a training."""
    model = vggdist.ModelConfig("vgg11", width_divisor=4, batch_norm=True, hidden=(), pretrained=begin, freeze=freeze)
    config = vggdist.Config(
        run=vggdist.RunConfig(name=name, directory=str(runs), seed=seed, device="cpu"),
        model=model,
        augment=vggdist.AugmentConfig(pad_crop=2, flip=True),
        optimizer=vggdist.OptimizerConfig(name="nag", learning_rate=rate, weight_decay=5e-4, backbone_rate=factor),
        schedule=vggdist.ScheduleConfig(name="one_cycle"),
        train=vggdist.TrainConfig(epochs=epochs, global_batch_size=batch_size),
        evaluation=vggdist.EvaluationConfig(every_epochs=0),
        checkpoint=vggdist.CheckpointConfig(every_epochs=0),
    )
    logging.disable(logging.INFO)
    return float(vggdist.train(config, data)["metrics"]["eval/top1(%)"])


def read(root: Path, part: str, names: Sequence[str]) -> Part:
    """The images ``(N, 32, 32, 3) uint8`` of a part, and the numbers of their classes."""
    files = [(path, label) for label, name in enumerate(names) for path in sorted((root / part / name).iterdir())]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
    return images, np.array([label for _, label in files])


def chosen(part: Part, labels: Sequence[int]) -> Part:
    """The images of some classes, with labels from 0 on."""
    which = np.isin(part[1], labels)
    return part[0][which], np.searchsorted(labels, part[1][which])


def some(part: Part, count: int, seed: int) -> Part:
    """``count`` random images of each class."""
    random = np.random.default_rng(seed)
    labels = np.unique(part[1])
    which = np.concatenate([random.choice(np.flatnonzero(part[1] == label), count, replace=False) for label in labels])
    return part[0][which], part[1][which]


def table(found: dict[tuple[str, float], list[float]]) -> str:
    """A line for each entry of ``WAYS``, with its best learning rate."""
    lines = ["| settings | learning rate | top-1 by seed | mean |", "|---|---|---|---|"]
    for way in WAYS:
        rate = max(RATES, key=lambda one: statistics.mean(found[way, one]))
        values = found[way, rate]
        each = ", ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {way} | {rate:g} | {each} | {statistics.mean(values):.2f} % |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
