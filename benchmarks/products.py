"""The last stage of a VGG as matrix products and as convolutions: ``.venv/bin/python benchmarks/products.py --repeats 15``.

VGG-11 with batch normalisation and no hidden layers on 32-pixel images, float32, in this process, on all cores of its
affinity mask (``taskset -c 0``: one core). For each batch size, both implementations take turns: forward and backward pass,
and the forward pass alone as in an evaluation, without input and update. The ratio is the speed of the products as a multiple.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

from vggdist.environment import variables

SETTINGS = variables.apply()  # before anything imports MXNet

import mxnet as mx  # noqa: E402
from measure import in_words, machine  # noqa: E402

from vggdist.benchmarking.series import in_turn  # noqa: E402
from vggdist.config.schema import ModelConfig  # noqa: E402
from vggdist.models.vgg import VGG, build_vgg  # noqa: E402

MODEL = ModelConfig(name="vgg11", batch_norm=True, hidden=())
WARMUP = 2


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64, 128], help="default: 16 32 64 128")
    parser.add_argument("--repeats", type=int, default=15, help="turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()

    found = {**machine(), "mxnet": mx.__version__}
    print(f"{in_words(found)}, n = {options.repeats}", flush=True)
    print(f"{'samples':>7} {'pass':>8} {'convolution, ms':>28} {'product, ms':>28} {'ratio':>24}")
    networks = {"convolution": build(samples=0), "product": build(samples=128)}
    figures = []
    for size in options.batch_sizes:
        images = mx.nd.random.uniform(shape=(size, 3, 32, 32))
        for name, pass_through in (("training", trained), ("forward", evaluated)):
            ways = {way: partial(pass_through, network, images) for way, network in networks.items()}
            in_turn(ways, WARMUP)
            taken = in_turn(ways, options.repeats)
            ratio = taken["convolution"].over(taken["product"])
            print(f"{size:>7} {name:>8} {taken['convolution']!s:>28} {taken['product']!s:>28} {ratio!s:>24}", flush=True)
            ways_json = {f"{way}_ms": series.as_json() for way, series in taken.items()}
            figures.append({"samples": size, "pass": name, **ways_json, "ratio": ratio.as_json()})
    if options.json:
        report = {"hardware": found, "settings": SETTINGS.values, "figures": figures}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def build(samples: int) -> VGG:
    """The network as a training with ``samples`` on a rank builds it; with 0 it has convolutions only."""
    return build_vgg(MODEL, channels=3, image_size=32, num_classes=10, seed=1, onednn="float32", samples=samples)


def trained(network: VGG, images: mx.nd.NDArray) -> float:
    """Milliseconds of a forward and backward pass."""
    started = time.perf_counter()
    with mx.autograd.record():
        total = mx.nd.sum(network(images))
    total.backward()
    mx.nd.waitall()
    return 1000 * (time.perf_counter() - started)


def evaluated(network: VGG, images: mx.nd.NDArray) -> float:
    """Milliseconds of a forward pass."""
    started = time.perf_counter()
    network(images).wait_to_read()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
