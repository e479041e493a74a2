"""PyTorch DistributedDataParallel on Gloo: ``python -m torch.distributed.run --nproc-per-node 2 pytorch_ddp.py --compile``.

The fastest settings for PyTorch on CPUs that we know: channels-last memory, an equal part of the cores for each rank, the
fused optimizer, gradients as views of the buckets, and augmentation of a whole batch by one gather of bytes. (A DataLoader
processes single samples in separate processes, and would take cores from the training.) The loop does not wait for a step.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# Simonyan & Zisserman 2015, Table 1: stages, batch normalisation, hidden layers.
NETWORKS = {
    "vgg11": (((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2), True, ()),
    "vgg16": (((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3), False, (4096, 4096)),
}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
PAD, CLASSES = 4, 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10's


def main() -> None:
    """Train for some steps and print the images per second of all ranks as a line of JSON."""
    options = arguments()
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
    torch.manual_seed(0)

    layout = LAYOUTS[options.layout]
    network = vgg(*NETWORKS[options.network], options.image_size).to(memory_format=layout)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    # Compiled as a whole: around DistributedDataParallel it would be cut into a graph for each bucket, which takes more time.
    model = DistributedDataParallel(torch.compile(network) if options.compile else network, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=True)
    objective = nn.CrossEntropyLoss()
    images, labels = synthetic(options.samples, options.image_size)
    random = np.random.default_rng(rank)

    def train(steps: int) -> torch.Tensor:
        for _ in range(steps):
            samples = random.integers(0, options.samples, options.batch_size)
            batch = augmented(images, samples, random).contiguous(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
                scores = model(batch)
            loss = objective(scores.float(), labels[samples])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        dist.barrier()
        return loss.detach()

    train(options.warmup)
    print("steps", options.warmup, flush=True)
    started = time.perf_counter()
    loss = train(options.steps)
    speed = ranks * options.batch_size * options.steps / (time.perf_counter() - started)
    print("steps", options.warmup + options.steps, flush=True)
    if rank == 0:
        result = {"images_per_s": speed, "parameters": parameters, "loss": loss.item()}
        print(json.dumps(result), flush=True)
    dist.destroy_process_group()


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="vgg11", help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=32, help="pixels, a multiple of 32 (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=8192, help="images of the data set (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="of a rank (default: %(default)s)")
    parser.add_argument("--warmup", type=int, default=8, help="steps before the clock starts (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=16, help="steps that are measured (default: %(default)s)")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--layout", choices=LAYOUTS, default="channels_last", help="of memory (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    return parser.parse_args()


def vgg(stages: tuple[tuple[int, ...], ...], batch_norm: bool, hidden: tuple[int, ...], image_size: int) -> nn.Sequential:
    """A VGG for ten classes, as ours: ``benchmarks/run.py`` and ``benchmarks/network.py``."""
    layers: list[nn.Module] = []
    inputs = 3
    for stage in stages:
        for channels in stage:
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1, bias=not batch_norm))
            layers += [nn.BatchNorm2d(channels)] if batch_norm else []
            layers.append(nn.ReLU(inplace=True))
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    inputs *= (image_size // 2 ** len(stages)) ** 2
    for units in hidden:
        layers += [nn.Linear(inputs, units), nn.ReLU(inplace=True), nn.Dropout(0.5)]
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


def synthetic(samples: int, size: int) -> tuple[np.ndarray, torch.Tensor]:
    """Noise: ``(N, H, W, 3) uint8`` images with their black border, and ``(N,) int64`` labels; the same on every rank."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (samples, size, size, 3), np.uint8)
    return np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0))), torch.from_numpy(random.integers(0, CLASSES, samples))


def augmented(images: np.ndarray, samples: np.ndarray, random: np.random.Generator) -> torch.Tensor:
    """Crop at random, mirror half of the samples and normalise: ``(B, 3, H, W) float32`` in channels-last order."""
    tops, lefts = random.integers(0, 2 * PAD + 1, (2, len(samples), 1))
    across = np.arange(images.shape[1] - 2 * PAD)
    columns = lefts + np.where(random.random((len(samples), 1)) < 0.5, across, across[::-1])
    batch = torch.from_numpy(images[samples[:, None, None], (tops + across)[:, :, None], columns[:, None, :]])
    return ((batch / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
