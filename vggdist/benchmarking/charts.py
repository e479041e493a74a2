"""Figures of measurements: medians, with bars from the smallest to the largest repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vggdist.benchmarking.tables import SHARES, longest, reduction_ways, scaling_rows

# Okabe & Ito 2008, Color Universal Design, distinguishable with any colour vision: blue, orange, purple, green, and a grey.
COLOURS = ("#0072B2", "#E69F00", "#CC79A7", "#009E73", "#BBBBBB")
PLAIN = "#56B4E9"  # their sky blue, if colour has no meaning
MARKERS = ("o", "s")


def step(measured: Mapping[str, Any]) -> Figure:
    """Bare step and training, and the shares of each rank's time."""
    figure, (rates, shares) = panels(2)
    for place, name in enumerate(("bare", "training")):
        series = measured[name]
        rates.bar(place, series["median"], yerr=_error_bars([series]), color=PLAIN, capsize=8, width=0.6)
        rates.annotate(f"{series['median']:.4g}", (place, series["median"] / 2), ha="center")
        rates.set_xticks([0, 1], ["bare step", "training"])
    rates.set_ylabel("images/s of all ranks")
    rates.set_title(f"{measured['world_size']} rank(s): training / bare step {measured['ratio']['median']:.3f}")
    _stack(shares, {str(rank): rank_shares for rank, rank_shares in enumerate(measured["shares"])})
    shares.set_xlabel("rank")
    return figure


def input(measured: Mapping[str, Any]) -> Figure:
    """Throughput against threads, and the throughput in proportion to the first."""
    figure, (panel,) = panels(1)
    threads = [row["threads"] for row in measured["threads"]]
    series = [row["images_per_s"] for row in measured["threads"]]
    _line(panel, 0, threads, series, "measured")
    _ideal(panel, threads, [series[0]["median"] * count / threads[0] for count in threads])
    panel.set_xticks(threads)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("threads of each rank")
    panel.set_ylabel("images/s of all ranks")
    panel.set_title(f"input alone, {measured['world_size']} rank(s)")
    panel.legend()
    return figure


def scaling(measured: Mapping[str, Any]) -> Figure:
    """Throughput and efficiency against ranks, and the shares of each rank's time."""
    figure, (rates, efficiencies, shares) = panels(3)
    for place, mode in enumerate(("weak", "strong")):
        ranks = [row["ranks"] for row in measured[mode]]
        label = f"{mode}: {measured[mode][0]['global_batch_size'] // ranks[0]} samples a rank"
        if mode == "strong":
            label = f"{mode}: {measured[mode][0]['global_batch_size']} samples a step"
        _line(rates, place, ranks, [row["images_per_s"] for row in measured[mode]], label)
        _line(efficiencies, place, ranks, [row["efficiency(%)"] for row in measured[mode]], mode)
    first = measured["weak"][0]
    _ideal(rates, ranks, [first["images_per_s"]["median"] * count / first["ranks"] for count in ranks])
    _ideal(efficiencies, ranks, [100] * len(ranks))
    for panel, unit in ((rates, "images/s of all ranks"), (efficiencies, "efficiency (%)")):
        panel.set_xticks(ranks)
        panel.set_ylim(bottom=0)
        panel.set_xlabel("ranks")
        panel.set_ylabel(unit)
        panel.legend()
    _stack(
        shares,
        {
            f"{mode} {row['ranks']}: {rank}": rank_shares
            for mode, row in scaling_rows(measured)
            for rank, rank_shares in enumerate(row["shares"])
        },
    )
    shares.tick_params(axis="x", rotation=90)
    shares.set_xlabel("scaling, number of ranks: rank")
    return figure


def allreduce(measured: Mapping[str, Any]) -> Figure:
    """Time against bytes, on logarithmic axes."""
    figure, (panel,) = panels(1)
    sizes = [row["bytes"] for row in measured["sizes"]]
    for place, way in enumerate(reduction_ways(measured)):
        series = [row[way] for row in measured["sizes"]]
        _line(panel, place, sizes, series, {"horovod": "Horovod", "mpi": "MPI"}[way], scale=1000)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_xlabel("bytes of the gradient")
    panel.set_ylabel("time of one allreduce (ms)")
    panel.set_title(f"allreduce over {measured['world_size']} ranks")
    panel.legend()
    return figure


def profile(measured: Mapping[str, Any]) -> Figure:
    """The operators with the longest times."""
    figure, (panel,) = panels(1)
    times = longest(measured)
    panel.barh(list(times), list(times.values()), color=PLAIN)
    panel.invert_yaxis()
    panel.grid(True, axis="x", alpha=0.3)
    panel.set_xlabel("time of a step (ms), while recorded")
    panel.set_title("operators on rank 0")
    return figure


def panels(columns: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure with axes side by side."""
    figure = Figure(figsize=(1.5 + 4.5 * columns, 4.5), layout="constrained")
    panels = figure.subplots(1, columns, squeeze=False)[0]
    for panel in panels:
        panel.grid(True, axis="y", alpha=0.3)
        panel.set_axisbelow(True)
    return figure, panels


def _error_bars(series: Sequence[Mapping[str, float]], scale: float = 1) -> list[list[float]]:
    """Distances of smallest and largest repeat from the medians, as matplotlib expects error bars."""
    below = [scale * (one["median"] - one["min"]) for one in series]
    return [below, [scale * (one["max"] - one["median"]) for one in series]]


def _line(
    panel: Axes, place: int, x: Sequence[float], series: Sequence[Mapping[str, float]], label: str, scale: float = 1
) -> None:
    medians = [scale * one["median"] for one in series]
    bars = _error_bars(series, scale)
    panel.errorbar(x, medians, yerr=bars, capsize=4 + 3 * place, color=COLOURS[place], marker=MARKERS[place], label=label)


def _ideal(panel: Axes, x: Sequence[float], y: Sequence[float]) -> None:
    panel.plot(x, y, color="black", linestyle="--", linewidth=1, label="in proportion")


def _stack(panel: Axes, bars: Mapping[str, Mapping[str, Any]]) -> None:
    """A stacked bar for each rank, of the shares of its time; negative shares are stacked below the axis."""
    above, below = [0.0] * len(bars), [0.0] * len(bars)
    for colour, (key, title) in zip(COLOURS, SHARES.items()):
        values = [shares[key]["median"] for shares in bars.values()]
        bottoms = [above[place] if value >= 0 else below[place] for place, value in enumerate(values)]
        panel.bar(range(len(bars)), values, bottom=bottoms, color=colour, edgecolor="black", linewidth=0.5, label=title)
        for place, value in enumerate(values):
            total = above if value >= 0 else below
            total[place] += value
    panel.set_xticks(range(len(bars)), bars)
    panel.set_ylabel("share of the training's time (%)")
    close = {"columnspacing": 0.8, "handlelength": 1.2, "handletextpad": 0.4}
    panel.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=len(SHARES), frameon=False, fontsize="small", **close)


CHARTS: dict[str, Callable[[Mapping[str, Any]], Figure]] = {
    "step": step,
    "input": input,
    "scaling": scaling,
    "allreduce": allreduce,
    "profile": profile,
}
