"""The model's predictions of published runs equal those in docs/plan.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from vggdist.config.plan import PlanConfig
from vggdist.planning.published import (
    HOST_BANDWIDTH,
    HOST_LATENCY_S,
    MEASUREMENTS,
    NETWORK_LATENCY_S,
    RDMA_SHARE,
    Measurement,
    predicted_speed_up,
)

DOCUMENT = (Path(__file__).parents[3] / "docs" / "plan.md").read_text()


def test_the_calibrated_runs_are_met_and_are_one_for_each_share() -> None:
    calibrated = [run for run in MEASUREMENTS if run.calibrates]
    assert len(calibrated) == len({run.share for run in MEASUREMENTS}) == 2
    for run in calibrated:
        assert predicted_speed_up(run) == pytest.approx(run.speed_up, rel=0.01)


@pytest.mark.parametrize(("ranks", "network", "error"), [(128, "RDMA", 2), (128, "TCP", 2), (512, "RDMA", 9), (64, "TCP", 15)])
def test_the_other_runs_are_off_by_as_much_as_the_document_says(ranks: int, network: str, error: float) -> None:
    (run,) = (run for run in MEASUREMENTS if run.ranks == ranks and run.network.endswith(network))
    difference = 100 * (predicted_speed_up(run) - run.speed_up) / ranks
    assert not run.calibrates and abs(difference) < error and (error == 2 or difference > error - 2)


@pytest.mark.parametrize("run", MEASUREMENTS)
def test_the_document_has_the_same_figures(run: Measurement) -> None:
    for speed_up in (run.speed_up, predicted_speed_up(run)):
        assert f"{speed_up:.1f} ({100 * speed_up / run.ranks:.1f} %)" in DOCUMENT


def test_a_plan_s_defaults_are_the_network_of_the_published_runs() -> None:
    plan = PlanConfig()
    assert plan.network_share == RDMA_SHARE and plan.network_latency * 1e-6 == pytest.approx(NETWORK_LATENCY_S)
    assert plan.host_bandwidth * 1e9 / 8 == HOST_BANDWIDTH and plan.host_latency * 1e-6 == pytest.approx(HOST_LATENCY_S)
