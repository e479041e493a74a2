"""The other trainings that ours is compared with train the same network; PyTorch's is not here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import run as comparison
from measure import VGG11

from tests.images import write_fashion_mnist
from tests.launching import run

PEERS = comparison.HERE / "peers"


@pytest.mark.parametrize(
    ("launcher", "size", "script"), [("python", 1, "plain_mxnet.py"), ("horovodrun --gloo", 2, "horovod_example.py")]
)
def test_a_peer_prints_its_speed(launcher: str, size: int, script: str, tmp_path: Path) -> None:
    done = run(launcher, size, [str(PEERS / script), "--batch-size", "4", "--warmup", "1", "--steps", "2"], tmp_path)
    (tmp_path / "output.txt").write_text(done.output)
    assert done.code == 0 and comparison.printed_speed(tmp_path, VGG11.layers) > 0, done.output


def test_the_tutorial_and_ours_report_loss_and_accuracy_of_the_same_steps(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path / "images", 8)
    script = [str(comparison.HERE / "tutorial.py"), "--root", "images", "--steps", "2", "--every", "1", "--repeats", "1"]
    small = ["--data.image_size", "32", "--train.global_batch_size", "4"]
    narrow = ["--model.width_divisor", "16", "--model.hidden", "[8]"]
    done = run("python", 1, [*script, "--json", "figures.json", *small, *narrow], tmp_path)
    assert done.code == 0, done.output
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for found in figures.values():
        assert [*found] == ["images/s", "loss 1 to 1", "loss 2 to 2", "top-1, test set (%)"]
        assert found["top-1, test set (%)"]["median"] in [12.5 * correct for correct in range(9)]
    assert [line.split()[0] for line in done.output.splitlines()[-5:]] == ["loss", "loss", "top-1,", "images/s", "time,"]
