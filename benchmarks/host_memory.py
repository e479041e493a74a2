"""Memory of a data set on one host, held once and by each rank: ``horovodrun -np 4 python benchmarks/host_memory.py``.

Number and size of the images are CIFAR-10's. The printed figure is the sum of the ranks' proportional set sizes (PSS, in which
a page that n processes map counts 1/n for each), minus the sum without data. Every image has been read.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from vggdist.environment import variables

variables.apply()

import psutil  # noqa: E402

from vggdist.collectives.shared_arrays import once_per_host  # noqa: E402
from vggdist.collectives.world import World  # noqa: E402
from vggdist.config.images import DataConfig  # noqa: E402
from vggdist.data.dataset import DataSet, load  # noqa: E402
from vggdist.data.serialization import from_arrays, to_arrays  # noqa: E402
from vggdist.data.statistics import value_counts  # noqa: E402

CIFAR_SIZED = DataConfig(name="synthetic", synthetic_samples=48_000, image_size=32)  # and 12,000 test images


def main() -> None:
    """Measure both; rank 0 prints."""
    world = World()

    def load_all() -> DataSet:
        return load(CIFAR_SIZED, seed=0)

    ways: dict[str, Callable[[], DataSet]] = {
        "once": lambda: once_per_host(world, load_all, to_arrays, from_arrays),
        "by each rank": load_all,
    }
    before = _mebibytes(world)
    for name, hold in ways.items():
        data = hold()
        for source in (data.train, data.test):
            value_counts(source)
        text = f"{_mebibytes(world) - before:.0f} MiB of data on {world.size} ranks, held {name}"
        del data, source
        if world.is_root:
            print(text, flush=True)


def _mebibytes(world: World) -> float:
    """The sum of all ranks' PSS."""
    world.barrier()
    return sum(world.gather(psutil.Process().memory_full_info().pss)) / 2**20


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
