"""Fine-tune a trained network on a few images of other classes, and classify with it: ``python examples/fine_tune.py``.

Under a launcher all ranks train, and rank 0 predicts: ``horovodrun -np 2 python examples/fine_tune.py``.
"""

from __future__ import annotations

from typing import Any

import horovod.mxnet as hvd
import numpy as np
from sklearn.datasets import load_digits

import vggdist

NETWORK: dict[str, Any] = {"name": "custom", "stages": ((1, 32), (2, 64)), "hidden": (128,), "batch_norm": True}
IMAGES_OF_EACH = 10


def main() -> None:
    """Train on the digits 0 to 7, then learn 8 and 9 from ten images of each."""
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    first, others = digits.target < 8, digits.target >= 8
    train("first", vggdist.ModelConfig(**NETWORK), 5, 32, 0.001, (images[first], digits.target[first]))

    few = np.concatenate([np.flatnonzero(digits.target == digit)[:IMAGES_OF_EACH] for digit in (8, 9)])
    rest = np.setdiff1d(np.flatnonzero(others), few)
    labels = digits.target - 8
    parts = {"train": (images[few], labels[few]), "test": (images[rest], labels[rest])}
    # Instead of a run, pretrained may be a file of torchvision (.pth), of Gluon's model zoo (.params), or a .safetensors file.
    model = vggdist.ModelConfig(**NETWORK, pretrained="runs/first", freeze=1)
    result = train("fine-tuned", model, 40, 4, 0.003, parts, backbone_rate=0.1)
    print(f"top-1 on {len(rest)} other images: {result['metrics']['eval/top1(%)']:.2f} %")

    if hvd.rank() == 0:
        classifier = vggdist.load_model("runs/fine-tuned", checkpoint="latest")
        for index, probabilities in zip(rest[:5], classifier.predict(images[rest[:5]])):
            print(f"image {index} is a {digits.target[index]}: 8 with {probabilities[0]:.3f}, 9 with {probabilities[1]:.3f}")


def train(
    name: str, model: vggdist.ModelConfig, epochs: int, batch: int, rate: float, data: Any, backbone_rate: float = 1.0
) -> dict[str, Any]:
    """Train, or continue the run of this name."""
    config = vggdist.Config(
        run=vggdist.RunConfig(name=name),
        model=model,
        optimizer=vggdist.OptimizerConfig(name="adam", learning_rate=rate, backbone_rate=backbone_rate),
        train=vggdist.TrainConfig(epochs=epochs, global_batch_size=batch),
        evaluation=vggdist.EvaluationConfig(every_epochs=0),
    )
    return vggdist.train(config, data)


if __name__ == "__main__":
    main()
