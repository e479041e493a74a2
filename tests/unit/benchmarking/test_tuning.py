"""Trials are close to the settings of a run, and there is a winner only beyond the spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vggdist.benchmarking import tuning
from vggdist.benchmarking.series import Series
from vggdist.benchmarking.tables import TABLES
from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.config.errors import RunError

VALUES = {"preset": "cpu", "OMP_NUM_THREADS": "2", "HOROVOD_CYCLE_TIME": "5", "cores": ["0-1", "2-3"]}


def tried(ranks: int = 2, values: Mapping[str, Any] = VALUES, **by_user: str) -> list[str]:
    return [str(trial) for trial in tuning.trials(BenchRequest(), ranks, values, by_user)]


def test_each_trial_differs_in_one_thing_from_a_plain_run() -> None:
    assert tried() == [
        "unchanged",
        "OMP_NUM_THREADS=1",
        "OMP_NUM_THREADS=3",
        "HOROVOD_CYCLE_TIME=1",
        "HOROVOD_CYCLE_TIME=20",
        "HOROVOD_FUSION_THRESHOLD=0",
        "HOROVOD_FUSION_THRESHOLD=16777216",
        "--train.bucket_cap_mb 1",
        "--train.bucket_cap_mb .inf",
        "--world.bind false",
    ]


def test_what_the_user_has_set_is_not_tried() -> None:
    assert not [
        setting for setting in tried(HOROVOD_CYCLE_TIME="5", OMP_NUM_THREADS="2") if "CYCLE" in setting or "OMP" in setting
    ]


def test_one_rank_has_nothing_to_reduce_and_no_others_beside_it() -> None:
    assert tried(ranks=1, values=VALUES | {"OMP_NUM_THREADS": "1", "cores": ["0-1"]}) == ["unchanged", "OMP_NUM_THREADS=2"]


def test_binding_is_switched_only_where_it_makes_a_difference() -> None:
    assert "--world.bind false" not in tried(values=VALUES | {"cores": ["0-3", "0-3"]})
    assert "--world.bind false" not in tried(values=VALUES | {"preset": "gpu"})


def of(rates: Mapping[str, list[float]]) -> str | None:
    return tuning.winner({setting: Series(values) for setting, values in rates.items()})


def test_the_fastest_beyond_the_spread_wins() -> None:
    assert of({"unchanged": [10, 11, 12], "A=1": [13, 14, 15], "A=2": [12.5, 16, 17], "A=3": [9, 99, 99]}) == "A=2"


@pytest.mark.parametrize("rates", [[10, 11, 12], [12, 20, 20], [5, 6, 7]])
def test_a_difference_within_the_spread_has_no_winner(rates: list[float]) -> None:
    assert of({"unchanged": [10, 11, 12], "A=1": rates}) is None


def test_two_jobs_of_each_are_too_few_for_a_winner() -> None:
    assert of({"unchanged": [10, 11], "A=1": [20, 21]}) is None


class Jobs:
    """Replaces ``bench step``: records the requested settings, and returns images/s."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        self.rates, self.started = rates, list[str]()

    def __call__(
        self,
        ranks: int,
        request: BenchRequest,
        arguments: list[str],
        flags: Mapping[str, str] = {},
        environment: Mapping[str, str] = {},
    ) -> dict[str, Any]:
        setting = str(tuning.Trial(environment, flags))
        self.started.append(setting)
        if setting not in self.rates:
            raise RunError(f"{setting} does not run")
        return {
            "training": {"median": self.rates[setting] + 0.01 * len(self.started)},
            "others(%)": 3.0,
            "environment": VALUES,
        }


def tune(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(tuning, "run_step", jobs)
    for name in ("OMP_NUM_THREADS", "HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD"):
        monkeypatch.delenv(name, raising=False)
    return tuning.measure(BenchRequest(bench=BenchConfig(repeats=3)), [])


def test_the_winner_is_printed_as_one_would_type_it(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs(dict.fromkeys(tried(), 100.0) | {"HOROVOD_CYCLE_TIME=1": 120.0})
    measured = tune(jobs, monkeypatch)
    assert measured["winner"] == "HOROVOD_CYCLE_TIME=1"
    table = list(TABLES["tune"](measured))
    assert table[-1] == "HOROVOD_CYCLE_TIME=1" and any("1.200" in line for line in table)
    assert [jobs.started.count(setting) for setting in tried()] == [4, *[3] * (len(tried()) - 1)]


def test_without_a_winner_it_says_that_a_plain_run_is_as_good(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = tune(Jobs(dict.fromkeys(tried(), 100.0)), monkeypatch)
    assert measured["winner"] is None and "no setting is faster" in list(TABLES["tune"](measured))[-1]


def test_a_setting_that_fails_is_reported_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = Jobs({setting: 100.0 for setting in tried() if "FUSION_THRESHOLD=0" not in setting})
    measured = tune(jobs, monkeypatch)
    (failed,) = (trial for trial in measured["trials"] if trial["failed"])
    assert failed["setting"] == "HOROVOD_FUSION_THRESHOLD=0" and jobs.started.count("HOROVOD_FUSION_THRESHOLD=0") == 1
    assert any("HOROVOD_FUSION_THRESHOLD=0 does not run" in line for line in TABLES["tune"](measured))


def test_where_a_plain_run_fails_nothing_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="unchanged does not run"):
        tune(Jobs({}), monkeypatch)
