"""VGG-11 on Fashion-MNIST as MXNet tutorials train it, in one process: ``python gluon_tutorial.py --root FOLDER``.

The manner of the chapter on VGG of "Dive into Deep Learning": the network is not hybridized, a DataLoader calls a Python
transform for each image, the loop reads the loss of each step, and pixels are from 0 to 1 without normalisation.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn
from mxnet.gluon.data.vision import transforms

STAGES = ((1, 64), (1, 128), (2, 256), (2, 512), (2, 512))  # convolutions and channels
CLASSES = 10


def main() -> None:
    """Train for some steps, evaluate, and print losses, accuracy and speed as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with train-images-idx3-ubyte.gz and the others")
    parser.add_argument("--image-size", type=int, default=224, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=0.05, help="default: %(default)s")
    parser.add_argument("--divisor", type=int, default=4, help="of the channels (default: %(default)s)")
    parser.add_argument("--hidden", type=int, nargs="*", default=[4096, 4096], help="units of the hidden layers")
    parser.add_argument("--steps", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--every", type=int, default=20, help="steps of a reported mean loss (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    if options.every < 1 or options.steps < 2 * options.every:
        parser.error("the speed is measured after the first reported loss: --steps must be twice --every or more")

    mx.random.seed(options.seed)
    np.random.seed(options.seed)  # the DataLoader's order
    augment = transforms.Compose([transforms.Resize(options.image_size), transforms.ToTensor()])
    data, test_data = (fashion_mnist(options.root, part).transform_first(augment) for part in ("train", "t10k"))
    loader = gluon.data.DataLoader(data, options.batch_size, shuffle=True)
    network = vgg11(options.divisor, options.hidden)
    network.initialize(mx.init.Xavier())
    trainer = gluon.Trainer(network.collect_params(), "sgd", {"learning_rate": options.learning_rate})
    objective = gluon.loss.SoftmaxCrossEntropyLoss()
    total, samples, seen = 0.0, 0, 0
    losses: list[float] = []
    times: list[tuple[float, int]] = []  # at the end of each interval, with the samples seen so far

    for step, (images, labels) in zip(range(1, options.steps + 1), endless(loader)):
        with autograd.record():
            loss = objective(network(images), labels)
        loss.backward()
        trainer.step(len(images))
        total, samples = total + loss.sum().asscalar(), samples + len(images)
        if step % options.every == 0:
            losses.append(total / samples)
            total, samples, seen = 0.0, 0, seen + samples
            times.append((time.perf_counter(), seen))
    # Without the first interval, in which buffers are allocated.
    (started, before), (ended, after) = times[0], times[-1]
    seconds = ended - started
    parameters = sum(p.data().size for p in network.collect_params().values())
    accuracy = mx.metric.Accuracy()
    for images, labels in gluon.data.DataLoader(test_data, options.batch_size):
        accuracy.update(labels, network(images))
    speed = {"images_per_s": (after - before) / seconds, "parameters": parameters, "seconds": seconds}
    print(json.dumps({**speed, "losses": losses, "top1": 100 * accuracy.get()[1]}), flush=True)


def vgg11(divisor: int, hidden: Sequence[int]) -> nn.Sequential:
    """VGG-11 (Simonyan & Zisserman 2015, Table 1 A) without batch normalisation, with fewer channels."""
    network = nn.Sequential()
    for convolutions, channels in STAGES:
        for _ in range(convolutions):
            network.add(nn.Conv2D(channels // divisor, 3, padding=1, activation="relu"))
        network.add(nn.MaxPool2D(2))
    for units in hidden:
        network.add(nn.Dense(units, activation="relu"), nn.Dropout(0.5))
    network.add(nn.Dense(CLASSES))
    return network


def fashion_mnist(folder: Path, part: str) -> gluon.data.ArrayDataset:
    """``train`` or ``t10k``, the test set: ``(N, 28, 28, 1) uint8`` images and ``(N,) int32`` labels."""
    pixels = read(folder / f"{part}-images-idx3-ubyte.gz")[16:]
    labels = read(folder / f"{part}-labels-idx1-ubyte.gz")[8:]
    return gluon.data.ArrayDataset(mx.nd.array(pixels.reshape(-1, 28, 28, 1), dtype="uint8"), labels.astype(np.int32))


def read(path: Path) -> np.ndarray:
    """The bytes of a gzipped file, with its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8)


def endless(loader: gluon.data.DataLoader) -> Iterator[list[mx.nd.NDArray]]:
    """Its batches, epoch after epoch."""
    while True:
        yield from loader


if __name__ == "__main__":
    main()
