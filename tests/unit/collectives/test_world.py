"""The device and the precision of a rank, and the error of a Horovod without MXNet support."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from tests.launching import DEADLINE
from vggdist.collectives.world import World, choose_device, choose_precision
from vggdist.config.errors import RequestError
from vggdist.environment import gpus


def test_horovod_without_mxnet_is_reported_with_the_commands_that_install_it(tmp_path: Path) -> None:
    binding = tmp_path / "horovod"
    binding.mkdir()
    (binding / "__init__.py").write_text("")
    (binding / "mxnet.py").write_text("raise ImportError('Extension horovod.mxnet has not been built')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[3]}"}
    finished = subprocess.run(
        [sys.executable, "-m", "vggdist.train"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert finished.returncode == 1
    assert "HOROVOD_WITH_MXNET=1" in finished.stderr and "Traceback" not in finished.stderr
    assert not (tmp_path / "runs").exists()


def two_gpus(monkeypatch: pytest.MonkeyPatch, refused: str | None = None) -> None:
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 2)
    monkeypatch.setattr(gpus, "refusal", lambda index: refused and f"GPU {index} {refused}")


@pytest.mark.parametrize("wanted", ["auto", "gpu"])
@pytest.mark.parametrize(("local_rank", "index"), [(0, 0), (1, 1), (2, 0), (5, 1)])
def test_local_ranks_go_round_the_visible_gpus(
    wanted: str, local_rank: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_gpus(monkeypatch)
    assert choose_device(wanted, local_rank) == mx.gpu(index)


def test_a_gpu_that_mxnet_cannot_use_is_refused_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch, refused="is a Hopper")
    with pytest.raises(RequestError, match="^run.device is gpu, but GPU 1 is a Hopper$"):
        choose_device("gpu", local_rank=3)


def test_auto_takes_the_cpu_instead_of_a_gpu_that_mxnet_cannot_use(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    two_gpus(monkeypatch, refused="is a Hopper")
    with caplog.at_level(logging.WARNING, logger="vggdist"):
        assert choose_device("auto", local_rank=0) == mx.cpu()
    assert caplog.messages == ["run.device auto uses the CPU: GPU 0 is a Hopper"]


@pytest.mark.parametrize(("wanted", "visible"), [("cpu", 2), ("auto", 0)])
def test_the_cpu_is_taken_without_asking_about_gpus(wanted: str, visible: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.context, "num_gpus", lambda: visible)
    monkeypatch.setattr(gpus, "refusal", lambda index: pytest.fail("asked about a GPU"))
    assert choose_device(wanted, local_rank=0) == mx.cpu()


def test_a_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx.context, "num_gpus", lambda: 0)
    with pytest.raises(RequestError, match="MXNet finds no GPU"):
        choose_device("gpu", local_rank=0)


def test_pillow_decodes_though_horovod_shows_it_another_libjpeg() -> None:
    program = (
        "import vggdist.collectives.world; from sklearn.datasets import load_sample_image; load_sample_image('flower.jpg')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, env=environment
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("device", "flags", "others", "precision"),
    [
        (mx.cpu(), "avx512f avx512_bf16", True, "bfloat16"),
        (mx.cpu(), "avx512f avx512_bf16", False, "float32"),
        (mx.cpu(), "avx512f", True, "float32"),
        (mx.gpu(), "avx512f avx512_bf16", True, "float32"),
    ],
)
def test_auto_is_bfloat16_if_every_cpu_has_its_instructions(
    device: mx.Context, flags: str, others: bool, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(World, "gather", lambda world, value: [value, others])
    assert choose_precision("auto", device, World(), cpuinfo) == precision
    assert choose_precision("float16", device, World(), tmp_path / "none") == "float16"
    monkeypatch.undo()
    assert choose_precision("auto", mx.cpu(), World(), tmp_path / "none") == "float32"
