"""The environment suits the place, and what the user has set stays."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vggdist.world import knobs
from vggdist.world.cores import Cores
from vggdist.world.topology import Topology


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 16 cores, all of which this process may use."""
    monkeypatch.setattr(knobs, "find_cores", lambda environment: Cores(16, 16))


def four_ranks(local_size: int = 4) -> dict[str, str]:
    return {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1", "HOROVOD_LOCAL_SIZE": str(local_size)}


def test_ranks_on_different_hosts_do_not_share_cores() -> None:
    environment = four_ranks(local_size=1)
    assert knobs.apply(environment)["OMP_NUM_THREADS"] == "16"


def test_everything_chosen_is_set_and_told() -> None:
    environment = four_ranks()
    settings = knobs.apply(environment)
    assert settings == dict(knobs.chosen(Topology(1, 4, 1, 4), 4, gloo=False)) and environment == four_ranks() | settings


@pytest.mark.parametrize("name", list(knobs.chosen(Topology(), 1, gloo=False)))
def test_the_user_s_value_wins_and_is_told(name: str) -> None:
    environment = four_ranks() | {name: "17"}
    assert knobs.apply(environment)[name] == "17" and environment[name] == "17"


def test_horovod_s_cycle_is_longer_where_its_thread_takes_a_core_from_others() -> None:
    mpi, gloo = (knobs.apply(four_ranks() | controller) for controller in ({}, {"HOROVOD_CONTROLLER": "gloo"}))
    assert float(mpi["HOROVOD_CYCLE_TIME"]) < float(gloo["HOROVOD_CYCLE_TIME"])


def test_the_knobs_are_set_before_mxnet_is_imported() -> None:
    program = "import sys, vggdist.world.knobs; sys.exit('mxnet' in sys.modules or 'horovod' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
