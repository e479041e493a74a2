"""The end of the ranks that :mod:`tests.rank_pool` keeps alive."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import rank_pool


@pytest.fixture(scope="session", autouse=True)
def pools() -> Iterator[None]:
    """Ends the pools after the last test."""
    yield
    rank_pool.close_all()


@pytest.fixture(autouse=True)
def pools_on_mpi() -> Iterator[None]:
    """Ends those on MPI after each test: ranks that wait there use a core, those on Gloo some percent of one."""
    yield
    rank_pool.close_all(["mpirun"])
