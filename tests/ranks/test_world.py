"""The collectives that everything else stands on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.rank_pool import call


@pytest.mark.parametrize(("launcher", "size"), [("python", 1), ("horovodrun --gloo", 3), ("mpirun", 2)])
def test_every_rank_gets_the_same_and_integers_are_exact(launcher: str, size: int, tmp_path: Path) -> None:
    results = call(launcher, size, "collectives", tmp_path)
    assert all(rank == results[0] for rank in results)
    assert np.array_equal(results[0]["broadcast"], np.random.RandomState(0).randn(7, 3).astype(np.float32).tolist())
    assert results[0]["gather"] == [{"rank": rank, "text": "ä" * rank} for rank in range(size)]
    assert results[0]["sum"] == size * 2**60 + sum(range(size))
    assert results[0]["patient threads"] > 0  # Horovod's, at least
