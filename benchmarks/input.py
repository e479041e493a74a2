"""Images per second of the input path: ``.venv/bin/python benchmarks/input.py --images FOLDER --json input.json``.

FOLDER has photographs as JPEG files. They are written to a record file in a temporary folder and augmented to 224 pixels as in
a training: random resized crop (8-100 % of the area, ratio 3/4-4/3), flip, and colour jitter of --jitter, by

- ours: record file, ``TrainingView`` and ``prefetch``, as a run uses them, to ``(B, 224, 224, 3) uint8``;
- whole images: ours, but rows below a crop are decoded, too;
- decoding: libjpeg-turbo alone, from memory: each whole image, at the scale (1, 1/2, 1/4, 1/8) that its crop of that epoch
  needs, into one buffer for each thread;
- ImageRecordIter: MXNet's, on the same record file with the same threads and augmentations, to float32, and to bytes
  (``ImageRecordUInt8Iter``). Its log has the number of threads that it uses, which may be smaller than requested;
- DataLoader: gluon's on a folder of the same files, with ``mxnet.gluon.data.vision.transforms`` and as many worker threads.

They take turns in each round. The table has medians, and ratios of ours to each, round by round. On a machine that is not
idle, the core time of an image is more reliable than images per second.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

from vggdist.environment import variables

variables.apply()  # before anything imports MXNet

import mxnet as mx  # noqa: E402
import numpy as np  # noqa: E402
import simplejpeg  # noqa: E402
from mxnet.gluon.data import DataLoader  # noqa: E402
from mxnet.gluon.data.vision import ImageFolderDataset, transforms  # noqa: E402

from vggdist.config.images import AugmentConfig, DataConfig  # noqa: E402
from vggdist.data import decode as data_decode  # noqa: E402
from vggdist.data.augment import TrainingView  # noqa: E402
from vggdist.data.crop_boxes import box_draws, random_box  # noqa: E402
from vggdist.data.dataset import load  # noqa: E402
from vggdist.data.encoded import EncodedSource  # noqa: E402
from vggdist.data.jpeg import Header, decode_jpeg  # noqa: E402
from vggdist.data.loader import batch_tasks, prefetch  # noqa: E402
from vggdist.data.randomness import Draws  # noqa: E402
from vggdist.data.resize_crop import divisor_for  # noqa: E402
from vggdist.data.sampler import SamplePlan  # noqa: E402
from vggdist.prepare import main as prepare  # noqa: E402

SIZE, BATCH, EPOCHS = 224, 25, 4
Epoch = Callable[[int], int]


def main() -> None:
    """Measure, print a table, and write the figures to the file of ``--json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of JPEG files, at least 50")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default 1 2)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--jitter", type=float, default=0.4, help="brightness, contrast and saturation (default 0.4)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        root = lay_out(options.images, Path(folder))
        for threads in options.threads:
            figures.append(measure(ways(root, threads, options.jitter), threads, options.rounds))
            print_table(figures[-1])
    if options.json:
        options.json.write_text(json.dumps({"jitter": options.jitter, "threads": figures}, indent=2) + "\n")


def lay_out(images: Path, root: Path) -> Path:
    """Copy the files in turn into two classes of a folder, and into a record file; the test part has two of each."""
    files = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg"))
    for part, count in (("train", None), ("test", 4)):
        for number, path in enumerate(files[:count]):
            folder = root / part / ("even", "odd")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    prepare([str(root), str(root / "records")])
    return root


def ways(root: Path, threads: int, jitter: float) -> dict[str, Epoch]:
    """For each implementation a function that runs one epoch and returns the number of images."""
    source = load(DataConfig(name="records", root=str(root / "records"), threads=threads), 0).train
    assert isinstance(source, EncodedSource)
    return {
        "ours": ours(source, threads, jitter),
        "whole images": whole_images(ours(source, threads, jitter)),
        "decoding": decoding(source, threads),
        "ImageRecordIter": image_record_iter(mx.io.ImageRecordIter, root / "records" / "train.rec", threads, jitter),
        "ImageRecordUInt8Iter": image_record_iter(mx.io.ImageRecordUInt8Iter, root / "records" / "train.rec", threads, jitter),
        "DataLoader": data_loader(root / "train", threads, jitter),
    }


def ours(source: EncodedSource, threads: int, jitter: float) -> Epoch:
    """The input of a training run."""
    config = AugmentConfig(random_resized_crop=True, flip=True, brightness=jitter, contrast=jitter, saturation=jitter)
    view = TrainingView(source, config, SIZE, 0, (0, 0, 0))
    plan = SamplePlan(len(source), BATCH, world_size=1, seed=0, drop_last=True)

    def epoch(number: int) -> int:
        steps = range(number * plan.steps_per_epoch, (number + 1) * plan.steps_per_epoch)
        batches = prefetch(batch_tasks(plan, view, 0, steps), threads, 4)
        return sum(len(batch.images) for batch in batches)

    return epoch


def whole_images(epoch: Epoch) -> Epoch:
    """The same without :func:`~vggdist.data.jpeg.decode_top`."""

    def decode(
        content: bytes, header: Header, height: int, width: int, row: int, divisor: int, buffer: np.ndarray
    ) -> np.ndarray:
        return decode_jpeg(content, height, width, divisor, buffer)

    def patched(number: int) -> int:
        with patch.object(data_decode, "decode_top", decode):
            return epoch(number)

    return patched


def decoding(source: EncodedSource, threads: int) -> Epoch:
    """libjpeg-turbo alone, at the scale of each crop."""
    contents = [source.store.read(index).content for index in range(len(source))]
    sizes = [simplejpeg.decode_jpeg_header(content)[:2] for content in contents]
    buffers = [np.empty(max(height * width for height, width in sizes) * 3, np.uint8) for _ in range(threads)]

    def one(thread: int, places: list[tuple[int, int]]) -> None:
        for place, divisor in places:
            height, width = (-(-side // divisor) if divisor > 1 else 0 for side in sizes[place])
            simplejpeg.decode_jpeg(contents[place], "RGB", min_height=height, min_width=width, buffer=buffers[thread])

    def epoch(number: int) -> int:
        boxes = [
            random_box(height, width, AugmentConfig(), draws)
            for (height, width), draws in zip(sizes, box_draws(Draws(0, number, np.arange(len(sizes))), "crop"))
        ]
        places = [(place, divisor_for(box, SIZE)) for place, box in enumerate(boxes)]
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(one, range(threads), [places[thread::threads] for thread in range(threads)]))
        return len(places)

    return epoch


def image_record_iter(kind: Callable[..., mx.io.DataIter], record_file: Path, threads: int, jitter: float) -> Epoch:
    """MXNet's iterator, written in C++."""
    iterator = kind(
        path_imgrec=str(record_file),
        path_imgidx=str(record_file.with_suffix(".idx")),
        data_shape=(3, SIZE, SIZE),
        batch_size=BATCH,
        preprocess_threads=threads,
        shuffle=True,
        random_resized_crop=True,
        min_random_area=0.08,
        max_random_area=1.0,
        min_aspect_ratio=0.75,
        max_aspect_ratio=4 / 3,
        rand_mirror=True,
        brightness=jitter,
        contrast=jitter,
        saturation=jitter,
    )

    def epoch(number: int) -> int:
        seen = 0
        iterator.reset()
        for batch in iterator:
            batch.data[0].wait_to_read()
            seen += BATCH - batch.pad
        return seen

    return epoch


def data_loader(folder: Path, threads: int, jitter: float) -> Epoch:
    """Gluon's loader with a transform in Python."""
    jitters = [transforms.RandomColorJitter(jitter, jitter, jitter)] if jitter else []
    crop = transforms.RandomResizedCrop(SIZE, scale=(0.08, 1.0), ratio=(0.75, 4 / 3))
    transform = transforms.Compose([crop, transforms.RandomFlipLeftRight(), *jitters, transforms.ToTensor()])
    data = ImageFolderDataset(str(folder)).transform_first(transform)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=threads, thread_pool=True, last_batch="discard")

    def epoch(number: int) -> int:
        seen = 0
        for images, _ in loader:
            images.wait_to_read()
            seen += len(images)
        return seen

    return epoch


def measure(epochs: dict[str, Epoch], threads: int, rounds: int) -> dict[str, object]:
    """Images per second of each implementation in each round, and the ratios of ours to the others in the same round."""
    for epoch in epochs.values():
        epoch(0)
    speeds: dict[str, list[float]] = {name: [] for name in epochs}
    costs: dict[str, list[float]] = {name: [] for name in epochs}
    loads = []
    for round_number in range(rounds):
        loads.append(round(os.getloadavg()[0], 2))
        for name, epoch in epochs.items():
            repeats = 1 if name == "DataLoader" else EPOCHS
            started, used = time.perf_counter(), time.process_time()
            seen = sum(epoch(1 + round_number * EPOCHS + repeat) for repeat in range(repeats))
            speeds[name].append(seen / (time.perf_counter() - started))
            costs[name].append(1000 * (time.process_time() - used) / seen)
    ratios = {
        name: statistics.median(own / other for own, other in zip(speeds["ours"], values)) for name, values in speeds.items()
    }
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    cpu = {name: statistics.median(values) for name, values in costs.items()}
    return {
        "threads": threads,
        "images_per_s": medians,
        "ours_to": ratios,
        "cpu_ms_per_image": cpu,
        "rounds": speeds,
        "load_average": loads,
    }


def print_table(figures: dict) -> None:
    """One line for each implementation."""
    print(f"{figures['threads']} thread(s), {len(os.sched_getaffinity(0))} cores, load average {figures['load_average']}")
    for name, speed in figures["images_per_s"].items():
        spread = sorted(figures["rounds"][name])
        print(
            f"{name:>22} {speed:8.0f} images/s ({spread[0]:.0f}-{spread[-1]:.0f})   ours is {figures['ours_to'][name]:.2f} x"
            f"   {figures['cpu_ms_per_image'][name]:.2f} ms of a core for an image",
            flush=True,
        )


if __name__ == "__main__":
    main()
