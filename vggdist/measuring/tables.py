"""What was measured, as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

SHARES = {"data_wait(%)": "data wait", "compute(%)": "compute", "allreduce(%)": "allreduce", "rest(%)": "rest"}
"""Where the time of a training step goes: key of each share, and its name for a person."""


def step(measured: Mapping[str, Any]) -> Iterator[str]:
    """Median, smallest and largest of each; then where each rank's time goes."""
    yield f"{'':22}{'median':>10}{'min':>10}{'max':>10}"
    titles = {"bare": "bare step, images/s", "training": "training, images/s", "ratio": "training / bare step"}
    for name, title in titles.items():
        values = [measured[name][key] for key in ("median", "min", "max")]
        yield f"{title:22}" + "".join(f"{value:>10.3f}" if name == "ratio" else f"{value:>10.1f}" for value in values)
    yield ""
    yield "share of the training's time (%)" + "".join(f"{title:>12}" for title in SHARES.values())
    for rank, shares in enumerate(measured["shares"]):
        yield f"{f'rank {rank}':32}" + "".join(f"{shares[key]['median']:>12.1f}" for key in SHARES)


def input(measured: Mapping[str, Any]) -> Iterator[str]:
    """A row for each number of threads."""
    yield f"threads{'images/s':>12}{'(min - max)':>22}{'ms of a core for an image':>28}"
    for row in measured["threads"]:
        rate = row["images_per_s"]
        spread = f"({rate['min']:.1f} - {rate['max']:.1f})"
        yield f"{row['threads']:>7}{rate['median']:>12.1f}{spread:>22}{row['core_ms_per_image']['median']:>28.3f}"


def allreduce(measured: Mapping[str, Any]) -> Iterator[str]:
    """A row for each size; the bandwidth is that of each link of a ring, 2 (n - 1) / n x bytes / time."""
    ways, ranks = reduction_ways(measured), measured["world_size"]
    yield f"{'bytes':>12}" + "".join(f"{way + ' ms':>14}{'(min - max)':>20}{'Gbit/s':>9}" for way in ways) + "  layers"
    for row in measured["sizes"]:
        line = f"{row['bytes']:>12,}"
        for way in ways:
            low, middle, high = (1000 * row[way][key] for key in ("min", "median", "max"))
            gigabits = 2 * (ranks - 1) / ranks * row["bytes"] * 8e-6 / middle
            line += f"{middle:>14.3f}{f'({low:.3f} - {high:.3f})':>20}{gigabits:>9.2f}"
        yield f"{line}  {', '.join(row['layers'])}"
    link = f"latency {measured['latency_us']:.0f} us, bandwidth {measured['bandwidth_gbit_s']:.1f} Gbit/s"
    yield f"for vggdist plan: {link} between two ranks"


def reduction_ways(measured: Mapping[str, Any]) -> list[str]:
    """Whose reductions were measured."""
    return [way for way in ("horovod", "mpi") if way in measured["sizes"][0]]


TABLES: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {"step": step, "input": input, "allreduce": allreduce}
