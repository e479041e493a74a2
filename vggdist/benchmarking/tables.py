"""Measurements as tables of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

SHARES = {
    "data_wait(%)": "data wait",
    "compute(%)": "compute",
    "rank_wait(%)": "rank wait",
    "allreduce(%)": "allreduce",
    "rest(%)": "rest",
}
"""Shares of the time of a training step: key and displayed name."""


def step(measured: Mapping[str, Any]) -> Iterator[str]:
    """Median, smallest and largest of each; then the shares of each rank's time."""
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


def scaling(measured: Mapping[str, Any]) -> Iterator[str]:
    """A row for each number of ranks, weak and strong; then a row for each rank."""
    yield f"scaling  ranks  batch{'images/s':>12}{'(min - max)':>22}{'efficiency(%)':>16}{'(min - max)':>18}"
    for mode, row in scaling_rows(measured):
        rate, efficiency = row["images_per_s"], row["efficiency(%)"]
        rates = f"({rate['min']:.1f} - {rate['max']:.1f})"
        efficiencies = f"({efficiency['min']:.1f} - {efficiency['max']:.1f})"
        line = f"{mode:7}{row['ranks']:>7}{row['global_batch_size']:>7}{rate['median']:>12.1f}{rates:>22}"
        yield f"{line}{efficiency['median']:>16.1f}{efficiencies:>18}"
    yield ""
    yield "share of the training's time (%)" + "".join(f"{title:>12}" for title in SHARES.values())
    for mode, row in scaling_rows(measured):
        for rank, shares in enumerate(row["shares"]):
            place = f"{mode:7}{row['ranks']:>7} rank(s), rank {rank}"
            yield f"{place:32}" + "".join(f"{shares[key]['median']:>12.1f}" for key in SHARES)
    others = max(row["others(%)"] for _, row in scaling_rows(measured))
    yield f"other processes used up to {others:.0f} % of this host's cores"


def scaling_rows(measured: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """``weak`` or ``strong``, and the measurements for a number of ranks."""
    yield from ((mode, row) for mode in ("weak", "strong") for row in measured[mode])


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


def profile(measured: Mapping[str, Any]) -> Iterator[str]:
    """The operators with the longest times, and the paths of the files."""
    yield f"{'ms of a step':>12}  operator on rank 0"
    yield from (f"{time:>12.3f}  {name}" for name, time in longest(measured).items())
    yield ""
    for rank, path in enumerate(measured["mxnet"]):
        yield f"rank {rank}: {path}"
    yield f"Horovod: {measured['horovod'] or 'no timeline, since one rank reduces nothing'}"
    yield "open them in https://ui.perfetto.dev or chrome://tracing"


def longest(measured: Mapping[str, Any], count: int = 12) -> dict[str, float]:
    """Milliseconds of a step in the operators with the longest times."""
    return dict(list(measured["operators"].items())[:count])


def tune(measured: Mapping[str, Any]) -> Iterator[str]:
    """A row for each setting; last the winner, as on the command line."""
    width = max(len(trial["setting"]) for trial in measured["trials"])
    yield f"{'':{width}}{'images/s':>12}{'(min - max)':>22}{'ratio':>9}{'(min - max)':>18}{'others (%)':>13}"
    for trial in measured["trials"]:
        if trial["failed"]:
            yield f"{trial['setting']:{width}}  {trial['failed'].splitlines()[0]}"
            continue
        rate, ratio = trial["images_per_s"], trial["ratio"]
        rates, ratios = (f"({rate['min']:.1f} - {rate['max']:.1f})", f"({ratio['min']:.3f} - {ratio['max']:.3f})")
        line = f"{trial['setting']:{width}}{rate['median']:>12.1f}{rates:>22}{ratio['median']:>9.3f}{ratios:>18}"
        yield f"{line}{trial['others(%)']:>13.0f}"
    yield ""
    if measured["winner"] is None:
        yield "no setting is faster beyond the spread"
        return
    yield "the winner, whose slowest job was faster than the fastest unchanged one:"
    yield str(measured["winner"])


def reduction_ways(measured: Mapping[str, Any]) -> list[str]:
    """The libraries whose reductions were measured."""
    return [way for way in ("horovod", "mpi") if way in measured["sizes"][0]]


TABLES: dict[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "step": step,
    "input": input,
    "scaling": scaling,
    "tune": tune,
    "allreduce": allreduce,
    "profile": profile,
}
