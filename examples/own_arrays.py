"""Train on arrays of your own: ``python examples/own_arrays.py``, or ``horovodrun -np 2 python examples/own_arrays.py``."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from sklearn.datasets import load_digits

import vggdist


def main() -> None:
    """Train a small network on arrays: scikit-learn's digits."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    config = vggdist.Config(
        run=vggdist.RunConfig(name="own-arrays"),
        model=vggdist.ModelConfig(name="custom", stages=((1, 32), (2, 64)), hidden=(128,), batch_norm=True),
        optimizer=vggdist.OptimizerConfig(name="adam", learning_rate=0.001),
        data=vggdist.DataConfig(validation=0.1),
        train=vggdist.TrainConfig(epochs=5),
    )
    result = vggdist.train(config, (images, digits.target), on_report=report)
    print(f"top-1 on held-out images: {result['metrics']['eval/top1(%)']:.2f} %")


def report(step: int, epoch: float, metrics: Mapping[str, float]) -> None:
    """Called on rank 0 with the metrics of each report and evaluation."""
    if "validation/loss" in metrics:
        print(f"epoch {epoch:g}: validation loss {metrics['validation/loss']:.4f}")


if __name__ == "__main__":
    main()
