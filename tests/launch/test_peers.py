"""The other trainings that ours is compared with train the same network; PyTorch's is not here."""

from __future__ import annotations

from pathlib import Path

import pytest
import run as comparison

from tests.launching import run

PEERS = comparison.HERE / "peers"


@pytest.mark.parametrize(
    ("launcher", "size", "script"), [("python", 1, "plain_mxnet.py"), ("horovodrun --gloo", 2, "horovod_example.py")]
)
def test_a_peer_tells_its_speed(launcher: str, size: int, script: str, tmp_path: Path) -> None:
    done = run(launcher, size, [str(PEERS / script), "--batch-size", "4", "--warmup", "1", "--steps", "2"], tmp_path)
    (tmp_path / "output.txt").write_text(done.output)
    assert done.code == 0 and comparison.printed_speed(tmp_path) > 0, done.output
