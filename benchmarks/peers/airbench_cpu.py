"""airbench94 (Jordan 2024) on a CPU, in bfloat16: ``python airbench_cpu.py --images DIR --seed 0``.

DIR has CIFAR-10 as ``train/<class>/*`` and ``test/<class>/*``. The program is the package ``airbench``, which expects a GPU
and float16: here its tensors stay on the CPU, in float32, and PyTorch's autocast runs its network in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from PIL import Image


def main() -> None:
    """Train once and print a line of JSON: accuracies in percent, and seconds of training and evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/<class>/* and test/<class>/*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=9.9, help="default: %(default)s")
    options = parser.parse_args()
    stay_on_the_cpu()
    replace_torchvision()
    import airbench  # noqa: PLC0415  only now, since it reads what is replaced

    loader = airbench.CifarLoader.__init__
    loader.__defaults__ = (*loader.__defaults__[:-1], "cpu")  # its last argument, the device

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        store(options.images)
        torch.manual_seed(options.seed)
        began = time.perf_counter()
        network = airbench.train94(epochs=options.epochs, make_net=lambda: in_bfloat16(airbench.make_net94()), verbose=False)
        test = airbench.CifarLoader("cifar10", train=False, batch_size=2000)
        augmented = airbench.evaluate(network, test, tta_level=2)
        seconds = time.perf_counter() - began
        plain = airbench.evaluate(network, test, tta_level=0)
    print(json.dumps({"seed": options.seed, "top1": 100 * plain, "top1_6_views": 100 * augmented, "seconds": seconds}))


def in_bfloat16(network: torch.nn.Module) -> torch.nn.Module:
    """Run the network alone under autocast: the eigenvectors for its whitening need float32."""
    forward = network.forward

    def call(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            scores: torch.Tensor = forward(images)
        return scores.float()

    network.forward = call
    return network


def stay_on_the_cpu() -> None:
    """Replace the calls that need a GPU."""
    torch.nn.Module.cuda = torch.nn.Module.half = lambda module: module
    torch.Tensor.half = lambda tensor: tensor.float()
    torch.cuda.Event = lambda enable_timing: SimpleNamespace(record=lambda: None, elapsed_time=lambda other: 0)
    torch.cuda.synchronize = lambda: None


def replace_torchvision() -> None:
    """Provide the only part of torchvision that the package uses, whose builds must match PyTorch's."""

    def normalize(mean: Sequence[float], std: Sequence[float]) -> Callable[[torch.Tensor], torch.Tensor]:
        means, deviations = (torch.as_tensor(values).view(-1, 1, 1) for values in (mean, std))
        return lambda images: (images - means) / deviations

    torchvision, transforms = ModuleType("torchvision"), ModuleType("torchvision.transforms")
    vars(torchvision)["transforms"], vars(transforms)["Normalize"] = transforms, normalize
    sys.modules |= {"torchvision": torchvision, "torchvision.transforms": transforms}


def store(folder: Path) -> None:
    """Write the images where the package expects them, in ``cifar10/``."""
    Path("cifar10").mkdir()
    for part in ("train", "test"):
        classes = sorted(path.name for path in (folder / part).iterdir())
        files = [(path, label) for label, name in enumerate(classes) for path in sorted((folder / part / name).iterdir())]
        images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in files])
        labels = torch.tensor([label for _, label in files])
        torch.save({"images": torch.tensor(images), "labels": labels, "classes": classes}, f"cifar10/{part}.pt")


if __name__ == "__main__":
    main()
