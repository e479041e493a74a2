"""Repeated measurements, without MXNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Series:
    """Values of one quantity, in the order of the measurements."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The median of the values."""
        return median(self.values)

    def __str__(self) -> str:
        """``123.4 (120.1 to 124.9)``: median, smallest and largest."""
        return f"{self.median:.4g} ({min(self.values):.4g} to {max(self.values):.4g})"

    def over(self, other: Series) -> Series:
        """The ratios to the values of the same turns."""
        return Series([mine / its for mine, its in zip(self.values, other.values)])

    def as_json(self) -> dict[str, Any]:
        """Values for a JSON file."""
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "repeats": list(self.values)}


def in_turn(measurements: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, Series]:
    """Repeat a set of measurements, in the opposite order from turn to turn.

    So changes of the machine over time (clock, heat, other load) affect all measurements equally.
    """
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(repeats):
        for name in list(measurements)[:: 1 if turn % 2 == 0 else -1]:
            values[name].append(measurements[name]())
    return {name: Series(repeated) for name, repeated in values.items()}


def link_of(sizes: Sequence[float], seconds: Sequence[float], ranks: int) -> tuple[float, float]:
    """Latency in seconds and bandwidth in bytes per second that fit measured rings best.

    Least squares of the relative error of ``2 (n - 1) (a + S / (n B))``, as in
    :mod:`vggdist.planning.collective_times`. A negative latency is set to 0.

    Args:
        sizes: bytes of each reduction, at least two different ones.
        seconds: of each reduction.
    """
    # t = x + y S; each row divided by t, so that small reductions count as much as large ones.
    a11 = sum(1 / t**2 for t in seconds)
    a12 = sum(s / t**2 for s, t in zip(sizes, seconds))
    a22 = sum(s**2 / t**2 for s, t in zip(sizes, seconds))
    b1, b2 = sum(1 / t for t in seconds), sum(s / t for s, t in zip(sizes, seconds))
    determinant = a11 * a22 - a12**2
    constant, slope = (b1 * a22 - b2 * a12) / determinant, (b2 * a11 - b1 * a12) / determinant
    if constant < 0:
        constant, slope = 0.0, b2 / a22
    return constant / (2 * (ranks - 1)), 2 * (ranks - 1) / (ranks * slope)
