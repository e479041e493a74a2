"""What the tests of this folder share."""

from __future__ import annotations

import logging

import pytest


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, also after another test has started the package's own logging."""
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    return caplog
