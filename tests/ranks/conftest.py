"""Tests with a pool of ranks run in one worker of pytest-xdist, which starts each pool once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import rank_pool


@pytest.fixture(scope="session", autouse=True)
def pools() -> Iterator[None]:
    """Ends the pools after the last test."""
    yield
    rank_pool.close_all()
