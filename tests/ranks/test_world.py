"""The collectives that everything else stands on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.launching import call


@pytest.mark.parametrize(("launcher", "size"), [("python", 1), ("horovodrun --gloo", 3), ("mpirun", 2)])
def test_every_rank_gets_the_same_and_integers_are_exact(launcher: str, size: int, tmp_path: Path) -> None:
    told = call(launcher, size, "collectives", tmp_path)
    assert all(rank == told[0] for rank in told)
    assert np.array_equal(told[0]["broadcast"], np.random.RandomState(0).randn(7, 3).astype(np.float32).tolist())
    assert told[0]["gather"] == [{"rank": rank, "text": "ä" * rank} for rank in range(size)]
    assert told[0]["sum"] == size * 2**60 + sum(range(size))
    assert told[0]["patient threads"] > 0  # Horovod's, at least
