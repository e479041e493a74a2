"""Search for faster environment settings on this machine: a few around those of a run, each in separate short jobs.

One setting is changed at a time. The criterion is images/s of the training in ``bench step``. Imports no MXNet.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Any

from vggdist.benchmarking.jobs import run_step
from vggdist.benchmarking.series import Series, in_turn
from vggdist.config.bench import BenchRequest
from vggdist.config.errors import RunError

_CYCLE_TIMES_MS = ("1", "5", "20")
_FUSION_THRESHOLDS = ("0", str(16 * 2**20), str(128 * 2**20))  # bytes; the last is Horovod's default
_BUCKETS_MIB = {"1": 1.0, ".inf": inf}  # text on the command line, and value
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class Trial:
    """A change to a plain run: environment variables, and values of ``section.key``."""

    environment: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As on the command line: ``NAME=value`` before the command, ``--section.key value`` after it."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return " ".join([*variables, *(f"--{key} {value}" for key, value in self.flags.items())]) or "unchanged"


def measure(request: BenchRequest, arguments: Sequence[str]) -> dict[str, Any]:
    """Measure all trials in turn, on the largest number of ranks in ``bench.ranks``.

    Args:
        arguments: of the command, passed on to the jobs.

    Returns:
        ``ranks``; ``environment`` of a plain run; ``trials``, the plain run first, each with ``setting``, ``images_per_s``,
        ``ratio`` to the plain run of the same turn, ``others(%)``, the largest load of other processes, and ``failed``,
        the error of a job without result; ``winner``, the setting that is faster, or None.

    Raises:
        RequestError: a job refused the request.
        RunError: a plain run failed or did not finish by ``bench.deadline``; none is left running.
    """
    ranks = max(request.bench.ranks)
    plain = run_step(ranks, request, arguments)
    tried = {str(trial): trial for trial in trials(request, ranks, plain["environment"], os.environ)}
    print(f"{len(tried)} settings, {request.bench.repeats} jobs of each, with at most {request.bench.deadline:g} s for a job")
    failed: dict[str, str] = {}
    others: dict[str, list[float]] = {setting: [] for setting in tried}

    def rate(setting: str) -> float:
        if setting in failed:
            return 0.0
        try:
            result = run_step(ranks, request, arguments, tried[setting].flags, tried[setting].environment)
        except RunError as error:
            if tried[setting] == Trial():
                raise
            failed[setting] = str(error)
            return 0.0
        others[setting].append(result["others(%)"])
        print(f"{result['training']['median']:8.1f} images/s: {setting}", flush=True)
        return float(result["training"]["median"])

    rates = in_turn({setting: partial(rate, setting) for setting in tried}, request.bench.repeats)
    plain_rates = rates[str(Trial())]
    return {
        "ranks": ranks,
        "environment": plain["environment"],
        "trials": [
            {
                "setting": setting,
                "images_per_s": series.as_json(),
                "ratio": series.over(plain_rates).as_json(),
                "others(%)": max(others[setting], default=None),
                "failed": failed.get(setting),
            }
            for setting, series in rates.items()
        ],
        "winner": winner(rates),
    }


def trials(request: BenchRequest, ranks: int, values: Mapping[str, Any], by_user: Mapping[str, str]) -> list[Trial]:
    """The trials, the plain run first.

    Args:
        values: ``environment`` in the result of a plain run.
        by_user: the user's environment; variables that it sets are not tried.
    """
    threads = int(values.get("OMP_NUM_THREADS", 1))
    variables = {"OMP_NUM_THREADS": [str(count) for count in (threads - 1, threads + 1) if count >= 1]}
    switched: list[dict[str, str]] = []
    if ranks > 1:
        variables |= {"HOROVOD_CYCLE_TIME": [*_CYCLE_TIMES_MS], "HOROVOD_FUSION_THRESHOLD": [*_FUSION_THRESHOLDS]}
        now = request.train.bucket_cap_mb
        switched += [{"train.bucket_cap_mb": text} for text, cap in _BUCKETS_MIB.items() if cap != now]
        if values["preset"] == "cpu" and (len({*values["cores"]}) > 1 or not request.world.bind):
            switched.append({"world.bind": str(not request.world.bind).lower()})
    present = {"HOROVOD_FUSION_THRESHOLD": _FUSION_THRESHOLDS[-1], **values}
    return [
        Trial(),
        *(
            Trial(environment={name: value})
            for name, choices in variables.items()
            for value in choices
            if name not in by_user and value != present.get(name)
        ),
        *(Trial(flags=flags) for flags in switched),
    ]


def winner(rates: Mapping[str, Series]) -> str | None:
    """The fastest setting that is significantly faster than the plain run; None if there is none.

    Significantly: the slowest of its jobs is faster than the fastest plain one. With five jobs of each, that happens for two
    equal settings in 1 of 252 cases.
    """
    plain = rates[str(Trial())]
    faster = {setting: series for setting, series in rates.items() if min(series.values) > max(plain.values)}
    if not faster or len(plain.values) < _FEWEST_RUNS:
        return None
    return max(faster, key=lambda setting: faster[setting].median)
