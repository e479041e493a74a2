"""bfloat16 reaches the convolutions, and only where MXNet has it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from tests.launching import HAS_BFLOAT16
from vggdist.config.errors import RequestError
from vggdist.models.precision import use_precision

COMPARE = """
import sys
import mxnet as mx
from vggdist.config.schema import ModelConfig
from vggdist.models.precision import use_precision
from vggdist.models.vgg import build_vgg
use_precision(sys.argv[1], mx.cpu())
model = ModelConfig(name="custom", stages=((1, 8), (1, 16)), hidden=(32,), dropout=0)
network = build_vgg(model, channels=3, image_size=16, num_classes=4, context=mx.cpu(), seed=1)
network.hybridize()
scores = network(mx.nd.random.uniform(shape=(2, 3, 16, 16)))
assert {array.data().dtype.__name__ for array in network.collect_params().values()} == {"float32"}
print(*scores.astype("float32").asnumpy().ravel())
"""


def compare(precision: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: MXNet cannot take it back.
    command = [sys.executable, "-c", COMPARE, precision]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)


def scores(precision: str) -> list[float]:
    ended = compare(precision)
    assert ended.returncode == 0, ended.stderr
    return [float(word) for word in ended.stdout.split()]


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no AVX-512, without which oneDNN does not compute in bfloat16")
def test_bfloat16_changes_the_scores_in_their_last_digits() -> None:
    exact, near = scores("float32"), scores("bfloat16")
    assert exact != near and near == pytest.approx(exact, rel=0.05, abs=0.05)


def test_a_gpu_is_refused() -> None:
    with pytest.raises(RequestError, match="train.precision is bfloat16, which MXNet has on the CPU only"):
        use_precision("bfloat16", mx.gpu())


def test_a_cpu_without_avx512_is_refused() -> None:
    ended = compare("bfloat16", DNNL_MAX_CPU_ISA="AVX2")
    assert "train.precision is bfloat16, which MXNet has on CPUs with AVX-512 only; use float32" in ended.stderr


def test_a_cpu_without_the_instructions_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vggdist.models.precision.amp.init", lambda target_dtype: None)  # the convolution is float32's then
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512f")
    with caplog.at_level(logging.WARNING):
        use_precision("bfloat16", mx.cpu(), tmp_path / "cpuinfo")
    assert "no avx512_bf16" in caplog.text
