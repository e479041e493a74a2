"""How long a checkpoint stops the training: ``.venv/bin/python benchmarks/checkpoint_stall.py --json stall.json``.

``CheckpointWriter`` saves VGG-16 with momentum (276.7 million numbers, 1.1 GB) while steps continue. A step consists of some
matrix products, in place of forward and backward pass, and an SGD update of every array in place. It has no gradients, to save
memory.

The stall of a save is the time for which the loop waits: the time of ``save()``, plus the time by which the next step is
longer than the median step, because its updates wait for the copies.

The write starts only when that step has ended, and is reported separately. No step waits for it, but it uses time of the
cores, and so slows steps that compute on all cores. The first save is the warm-up and is also reported separately.

Needs about 3.5 GB of memory, twice 1.1 GB of disk and, on two idle cores, one to two minutes. Target: a median of 0.2 s.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vggdist.environment import variables

SETTINGS = variables.apply()  # before anything imports MXNet

import mxnet as mx  # noqa: E402
from measure import in_words, machine  # noqa: E402

from vggdist.checkpoints.store import CheckpointStore  # noqa: E402
from vggdist.checkpoints.writer import CheckpointWriter  # noqa: E402
from vggdist.config.schema import ModelConfig  # noqa: E402
from vggdist.models.vgg import VGG  # noqa: E402

TARGET_S = 0.2


@dataclass(frozen=True)
class Save:
    """The cost of one save, in seconds."""

    call_s: float
    """Time of ``save()`` in the training's thread."""
    first_step_s: float
    """Time by which the next step was longer than usual: its updates wait for the copies."""
    later_steps_s: float
    """Time by which the steps until the end of the write were longer: the writing thread shares the cores."""
    write_s: float
    """From the end of the first step until the checkpoint was on the disk; not part of the stall."""

    @property
    def stall_s(self) -> float:
        """Time for which the loop waited."""
        return self.call_s + self.first_step_s


class HeldStore(CheckpointStore):
    """Starts to write when ``released`` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.released = threading.Event()

    def save(self, *arguments: Any, **options: Any) -> Path:
        """Wait, then write."""
        self.released.wait()
        return super().save(*arguments, **options)


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--saves", type=int, default=6, help="saves after the warm-up (default 6)")
    parser.add_argument("--baseline-steps", type=int, default=15, help="steps without a save (default 15)")
    parser.add_argument("--products", type=int, default=8, help="matrix products of side 2048 in a step (default 8)")
    parser.add_argument("--directory", type=Path, help="where to write the checkpoints (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()

    arrays = vgg16_with_momentum()
    step = training_step(arrays, options.products)
    size, found = sum(array.size * 4 for array in arrays.values()), {**machine(), "mxnet": mx.__version__}
    print(f"a checkpoint of VGG-16 with momentum, {size / 1e9:.2f} GB, on {in_words(found)}", flush=True)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        started = time.perf_counter()
        store = HeldStore(Path(folder))
        writer = CheckpointWriter(store, arrays, keep_last=1)
        mx.nd.waitall()
        buffers_s = time.perf_counter() - started
        for _ in range(3):
            step()
        usual = statistics.median(step() for _ in range(options.baseline_steps))
        print(f"{'save':>8} {'call':>8} {'1st step':>9} {'stall':>8} {'write':>8} {'later':>8}   (s)")
        saves = []
        for number in range(options.saves + 1):
            saves.append(measure(writer, store, number, step, usual))
            print(line(str(number) if number else "warm-up", saves[-1]), flush=True)
        usual_after = statistics.median(step() for _ in range(options.baseline_steps))

    first, rest = saves[0], saves[1:]
    figures: dict[str, Any] = {
        "what": "stall of the training by a checkpoint of VGG-16 with momentum",
        "bytes": size,
        "hardware": found,
        "settings": SETTINGS.values,
        "step_s": usual,
        "step_after_s": usual_after,
        "buffers_s": buffers_s,
        "first": asdict(first) | {"stall_s": first.stall_s},
        "saves": [asdict(save) | {"stall_s": save.stall_s} for save in rest],
        "median": {name: statistics.median(getattr(save, name) for save in rest) for name in (*asdict(first), "stall_s")},
        "target_s": TARGET_S,
    }
    print(f"usual step {usual:.3f} s before and {usual_after:.3f} s after; allocation of the buffers {buffers_s:.3f} s")
    median = figures["median"]["stall_s"]
    print(f"median stall {median:.3f} s, {'within' if median <= TARGET_S else 'above'} the target of {TARGET_S} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


def vgg16_with_momentum() -> dict[str, mx.nd.NDArray]:
    """Arrays with the names and shapes of a run's checkpoint, on the CPU."""
    network = VGG(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000)
    shapes = {name: parameter.shape for name, parameter in network.collect_params().items()}
    arrays = {f"parameter/{name}": mx.nd.random.normal(0, 0.05, shape) for name, shape in shapes.items()}
    arrays.update({f"optimizer/{name}/momentum": mx.nd.zeros(shape) for name, shape in shapes.items()})
    mx.nd.waitall()
    return arrays


def training_step(arrays: dict[str, mx.nd.NDArray], products: int) -> Callable[[], float]:
    """A step that computes and updates all arrays, waits for the end and returns its seconds."""
    side = mx.nd.random.normal(0, 1, (2048, 2048))
    weights = {name.removeprefix("parameter/"): array for name, array in arrays.items() if name.startswith("parameter/")}

    def step() -> float:
        started = time.perf_counter()
        results = [mx.nd.dot(side, side) for _ in range(products)]
        for name, weight in weights.items():
            momentum = arrays[f"optimizer/{name}/momentum"]
            mx.nd.sgd_mom_update(weight, weight, momentum, lr=1e-6, momentum=0.9, wd=0.0, out=weight)
        for array in (*results, *weights.values()):
            array.wait_to_read()  # not waitall, which would also wait for the checkpoint's copies
        return time.perf_counter() - started

    return step


def measure(writer: CheckpointWriter, store: HeldStore, number: int, step: Callable[[], float], usual: float) -> Save:
    """Save once and continue with steps until the write has ended."""
    store.released.clear()
    started = time.perf_counter()
    writer.save({"step": number})
    call = time.perf_counter() - started
    first = step()
    store.released.set()
    released = time.perf_counter() - started
    steps = []
    while any(thread.name == "checkpoint" for thread in threading.enumerate()):
        steps.append(step())
    writer.wait()
    if writer.failure:
        raise writer.failure
    return Save(call, first - usual, sum(steps) - usual * len(steps), writer.seconds - released)


def line(name: str, save: Save) -> str:
    """One line of the table, all in seconds."""
    return (
        f"{name:>8} {save.call_s:8.3f} {save.first_step_s:9.3f} {save.stall_s:8.3f} {save.write_s:8.3f} "
        f"{save.later_steps_s:8.3f}"
    )


if __name__ == "__main__":
    main()
