"""What the tests of this folder share."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.stored import save
from vggdist.checkpoints.store import CheckpointStore


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, also after another test has started the package's own logging."""
    monkeypatch.setattr(logging.getLogger("vggdist"), "propagate", True)
    return caplog


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three whole checkpoints: steps 10, 20 and 30."""
    directory = tmp_path_factory.mktemp("original") / "checkpoints"
    for step in (10, 20, 30):
        save(CheckpointStore(directory), step)
    return directory


@pytest.fixture
def store(original: Path, tmp_path: Path) -> CheckpointStore:
    """A copy of the three whole checkpoints."""
    return CheckpointStore(shutil.copytree(original, tmp_path / "checkpoints"))
