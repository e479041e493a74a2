"""Horovod and MXNet as in Horovod's examples: ``horovodrun -np 2 python horovod_example.py``.

These are in ``examples/mxnet/`` of Horovod 0.28.1: MXNet's iterator over a record file with two threads, a hybridized
network, ``DistributedTrainer`` with its defaults, the learning rate times the number of ranks, and a metric that is updated
after each batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import horovod.mxnet as hvd
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from mxnet.gluon import nn

STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
SAMPLES, SIZE, PAD, CLASSES = 8192, 32, 4, 10
MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)  # CIFAR-10's


def main() -> None:
    """Train for some steps and print the images per second of all ranks as a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128, help="of a rank (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=8, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="steps that are measured (default: %(default)s)")
    options = parser.parse_args()
    hvd.init()
    context = mx.cpu(hvd.local_rank())

    mx.random.seed(0)  # the examples broadcast rank 0's weights instead; Horovod 0.28.1 sometimes crashes in that
    network = vgg11()
    network.hybridize()
    network.initialize(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2), ctx=context)
    parameters = network.collect_params()
    optimizer = mx.optimizer.create("sgd", learning_rate=0.01 * hvd.size(), momentum=0.9, wd=5e-4)
    trainer = hvd.DistributedTrainer(parameters, optimizer)
    objective = gluon.loss.SoftmaxCrossEntropyLoss()
    accuracy = mx.metric.Accuracy()
    with tempfile.TemporaryDirectory() as folder:
        batches = endless(records(Path(folder), options.batch_size))

        def train(steps: int) -> float:
            for _, batch in zip(range(steps), batches):
                images, labels = batch.data[0].as_in_context(context), batch.label[0].as_in_context(context)
                with autograd.record():
                    scores = network(images)
                    loss = objective(scores, labels)
                loss.backward()
                trainer.step(options.batch_size)
                accuracy.update([labels], [scores])
            hvd.allreduce(mx.nd.zeros(1), name="barrier").wait_to_read()
            mx.nd.waitall()
            return float(loss.mean().asscalar())

        train(options.warmup)
        started = time.perf_counter()
        loss = train(options.steps)
        speed = hvd.size() * options.batch_size * options.steps / (time.perf_counter() - started)
    if hvd.rank() == 0:
        number = sum(p.data().size for p in parameters.values() if p.grad_req != "null")
        result = {"images_per_s": speed, "parameters": number, "loss": loss}
        print(json.dumps(result), flush=True)


def vgg11() -> nn.HybridSequential:
    """VGG-11 with batch normalisation (Simonyan & Zisserman 2015, Table 1 A) for 32-pixel images and ten classes."""
    network = nn.HybridSequential()
    inputs = 3
    for stage in STAGES:
        for channels in stage:
            convolution = nn.Conv2D(channels, 3, padding=1, use_bias=False, in_channels=inputs)
            network.add(convolution, nn.BatchNorm(in_channels=channels), nn.Activation("relu"))
            inputs = channels
        network.add(nn.MaxPool2D(2))
    network.add(nn.Flatten(), nn.Dense(CLASSES, in_units=inputs))
    return network


def records(folder: Path, batch_size: int) -> mx.io.DataIter:
    """This rank's part of a record file of noise: ``(N, 32, 32, 3) uint8`` images as PNG, augmented and normalised."""
    source = np.random.default_rng(0)
    images = source.integers(0, 256, (SAMPLES, SIZE, SIZE, 3), np.uint8)
    file = mx.recordio.MXIndexedRecordIO(str(folder / "train.idx"), str(folder / "train.rec"), "w")
    for number, (image, label) in enumerate(zip(images, source.integers(0, CLASSES, SAMPLES))):
        file.write_idx(number, mx.recordio.pack_img(mx.recordio.IRHeader(0, float(label), number, 0), image, img_fmt=".png"))
    file.close()
    return mx.io.ImageRecordIter(
        path_imgrec=str(folder / "train.rec"),
        path_imgidx=str(folder / "train.idx"),
        data_shape=(3, SIZE, SIZE),
        batch_size=batch_size,
        shuffle=True,
        preprocess_threads=2,
        pad=PAD,
        rand_crop=True,
        rand_mirror=True,
        **dict(zip(("mean_r", "mean_g", "mean_b"), MEAN)),
        **dict(zip(("std_r", "std_g", "std_b"), STD)),
        num_parts=hvd.size(),
        part_index=hvd.rank(),
    )


def endless(batches: mx.io.DataIter) -> Iterator[mx.io.DataBatch]:
    """Its batches, epoch after epoch."""
    while True:
        batches.reset()
        yield from batches


if __name__ == "__main__":
    main()
