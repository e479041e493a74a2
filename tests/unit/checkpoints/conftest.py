"""Fixtures of the tests in this folder."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.stored import save
from vggdist.checkpoints.store import CheckpointStore


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The log, also after another test has set up the package's logging."""
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    return caplog


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three intact checkpoints: steps 10, 20 and 30."""
    directory = tmp_path_factory.mktemp("original") / "checkpoints"
    for step in (10, 20, 30):
        save(CheckpointStore(directory), step)
    return directory


@pytest.fixture
def store(original: Path, tmp_path: Path) -> CheckpointStore:
    """A copy of the three intact checkpoints."""
    return CheckpointStore(shutil.copytree(original, tmp_path / "checkpoints"))
