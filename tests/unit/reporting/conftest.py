"""Fixtures of the tests in this folder."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, also after another test has set up the package's logging."""
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    return caplog
