"""A Gluon training loop as in tutorials, in one process: ``python plain_mxnet.py``.

A DataLoader calls a Python transform for each image. The loop waits for each batch, to read its loss and accuracy.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn
from mxnet.gluon.data.vision import transforms

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
SAMPLES, SIZE, PAD, CLASSES = 8192, 32, 4, 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's


class PadCrop(gluon.Block):
    """Pads with black and crops the old size at random: ``(32, 32, 3) uint8``."""

    def forward(self, image: mx.nd.NDArray) -> mx.nd.NDArray:
        """Crop one image."""
        padded = mx.image.copyMakeBorder(image, PAD, PAD, PAD, PAD)
        return mx.image.fixed_crop(padded, random.randint(0, 2 * PAD), random.randint(0, 2 * PAD), SIZE, SIZE)


def main() -> None:
    """Train for some steps and print the images per second as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--warmup", type=int, default=8, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="steps that are measured (default: %(default)s)")
    options = parser.parse_args()

    augment = [PadCrop(), transforms.RandomFlipLeftRight(), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    data = synthetic().transform_first(transforms.Compose(augment))
    loader = gluon.data.DataLoader(data, options.batch_size, shuffle=True, last_batch="discard")
    network = vgg11()
    network.initialize(mx.init.Xavier())
    network.hybridize()
    trainer = gluon.Trainer(network.collect_params(), "sgd", {"learning_rate": 0.01, "momentum": 0.9, "wd": 5e-4})
    objective = gluon.loss.SoftmaxCrossEntropyLoss()
    accuracy = mx.metric.Accuracy()
    started, total = 0.0, 0.0

    for step, (images, labels) in zip(range(options.warmup + options.steps), endless(loader)):
        if step == options.warmup:
            started = time.perf_counter()
        with autograd.record():
            scores = network(images)
            loss = objective(scores, labels)
        loss.backward()
        trainer.step(options.batch_size)
        total += loss.mean().asscalar()
        accuracy.update(labels, scores)
    mx.nd.waitall()
    speed = options.batch_size * options.steps / (time.perf_counter() - started)
    parameters = sum(p.data().size for p in network.collect_params().values() if p.grad_req != "null")
    result = {"images_per_s": speed, "parameters": parameters, "loss": total / (step + 1)}
    print(json.dumps(result), flush=True)


def vgg11() -> nn.HybridSequential:
    """VGG-11 with batch normalisation (Simonyan & Zisserman 2015, Table 1 A) for 32-pixel images and ten classes."""
    network = nn.HybridSequential()
    for stage in STAGES:
        for channels in stage:
            network.add(nn.Conv2D(channels, 3, padding=1, use_bias=False), nn.BatchNorm(), nn.Activation("relu"))
        network.add(nn.MaxPool2D(2))
    network.add(nn.Flatten(), nn.Dense(CLASSES))
    return network


def synthetic() -> gluon.data.ArrayDataset:
    """Noise: ``(N, 32, 32, 3) uint8`` images and ``(N,) int32`` labels."""
    source = np.random.default_rng(0)
    images = source.integers(0, 256, (SAMPLES, SIZE, SIZE, 3), np.uint8)
    return gluon.data.ArrayDataset(mx.nd.array(images, dtype="uint8"), source.integers(0, CLASSES, SAMPLES, np.int32))


def endless(loader: gluon.data.DataLoader) -> Iterator[list[mx.nd.NDArray]]:
    """Its batches, epoch after epoch."""
    while True:
        yield from loader


if __name__ == "__main__":
    main()
