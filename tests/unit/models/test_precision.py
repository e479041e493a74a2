"""16-bit types are used by the convolutions, if MXNet supports them; the loss and the parameters stay float32."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import pytest

from tests.launching import DEADLINE, HAS_BFLOAT16
from vggdist.config.errors import RequestError
from vggdist.environment.gpus import Gpu
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
    # In a separate process: MXNet cannot undo it.
    command = [sys.executable, "-c", COMPARE, precision]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, env=os.environ | environment)


def scores(precision: str) -> list[float]:
    ended = compare(precision)
    assert ended.returncode == 0, ended.stderr
    return [float(word) for word in ended.stdout.split()]


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no AVX-512, without which oneDNN does not compute in bfloat16")
def test_bfloat16_changes_the_scores_in_their_last_digits() -> None:
    exact, near = scores("float32"), scores("bfloat16")
    assert exact != near and near == pytest.approx(exact, rel=0.05, abs=0.05)


FAST = """
import mxnet as mx
import numpy as np
from vggdist.config.schema import ModelConfig
from vggdist.models.precision import use_precision
from vggdist.models.vgg import build_vgg
use_precision("bfloat16", mx.cpu())
model = ModelConfig(name="custom", stages=((1, 16), (1, 16)), hidden=(), batch_norm=True)
images = mx.nd.random.uniform(shape=(64, 3, 4, 4))
results = []
for onednn in (None, "bfloat16"):
    network = build_vgg(model, channels=3, image_size=4, num_classes=4, seed=1, onednn=onednn, samples=64)
    print(*(type(network[layer][0]).__name__ for layer in (0, 2)), network[0][0](images).dtype)
    with mx.autograd.record():
        scores = network(images).astype("float32")
        loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()(scores, mx.nd.arange(64) % 4).mean()
    loss.backward()
    gradients = [p.grad() for p in network.collect_params().values() if p.grad_req != "null"]
    results.append([array.asnumpy().ravel() for array in (scores, *gradients)])
print(*(np.linalg.norm(one - other) / np.linalg.norm(one) for one, other in zip(*results)))
"""


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU has no AVX-512, without which oneDNN does not compute in bfloat16")
def test_the_network_for_bfloat16_on_onednn_gives_the_same_scores_and_gradients_and_its_first_layer_is_float32() -> None:
    ended = subprocess.run([sys.executable, "-c", FAST], capture_output=True, text=True, timeout=DEADLINE)
    assert ended.returncode == 0, ended.stderr
    plain, fast, differences = ended.stdout.splitlines()
    assert (plain, fast) == ("Conv2D Conv2D [('bfloat16', '<u2')]", "Float32Conv2D Conv2D <class 'numpy.float32'>")
    relative = [float(word) for word in differences.split()]
    assert len(relative) == 9 and 0 < max(relative) < 0.2  # rounding; a wrong matrix differs by more than 1


def test_a_gpu_is_refused() -> None:
    with pytest.raises(RequestError, match="train.precision is bfloat16, which MXNet supports on the CPU only"):
        use_precision("bfloat16", mx.gpu())


def test_a_cpu_without_avx512_is_refused() -> None:
    ended = compare("bfloat16", DNNL_MAX_CPU_ISA="AVX2")
    assert "train.precision is bfloat16, which MXNet supports on CPUs with AVX-512 only; use float32" in ended.stderr


def test_a_cpu_without_the_instructions_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("vggdist.models.precision.amp.init", lambda target_dtype: None)  # the convolution is then in float32
    (tmp_path / "cpuinfo").write_text("flags : fpu avx2 avx512f")
    with caplog.at_level(logging.WARNING):
        use_precision("bfloat16", mx.cpu(), tmp_path / "cpuinfo")
    assert "no avx512_bf16" in caplog.text


TYPES = """
import json
import mxnet as mx
from mxnet.contrib import amp
from vggdist.config.schema import ModelConfig
from vggdist.models.model import Model
from vggdist.models.spec import ModelSpec
from vggdist.training.step import Objective
amp.init(target_dtype="float16")
architecture = ModelConfig(name="custom", stages=((1, 8), (1, 8)), hidden=(16,), batch_norm=True)
spec = ModelSpec(architecture, ("a", "b"), 3, 16, 16, (0.5,) * 3, (0.5,) * 3)
objective = Objective(Model(spec, mx.cpu(), seed=0), 0.1, mx.nd.ones(2).asnumpy())
inputs = {"images": "uint8", "labels": "int32", "partners": "int32", "weights": "float32", "mask": "float32"}
graph = mx.sym.Group(list(objective(*map(mx.sym.var, inputs))))
every = graph.get_internals()
arguments, outputs, statistics = every.infer_type(**inputs)
types = {name.rpartition("_output")[0]: kind.__name__ for name, kind in zip(every.list_outputs(), outputs)}
found = {}
for node in json.loads(graph.tojson())["nodes"]:
    if node["op"] != "null" and node["op"] != "amp_cast" and node["name"] in types:
        found.setdefault(types[node["name"]], set()).add(node["op"])
parameters = {kind.__name__ for name, kind in zip(every.list_arguments(), arguments) if name not in inputs}
print(json.dumps({"float16": sorted(found["float16"]), "float32": sorted(found["float32"]), "parameters": [*parameters],
    "statistics": sorted({kind.__name__ for kind in statistics})}))
"""


def test_what_is_cast_to_float16_and_what_stays_float32() -> None:
    """The types in the graph of a step, as in docs/gpu.md; computing it needs a GPU."""
    ended = subprocess.run([sys.executable, "-c", TYPES], capture_output=True, text=True, timeout=DEADLINE)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["float16"] == ["Activation", "BatchNorm", "Convolution", "Dropout", "Flatten", "FullyConnected", "Pooling"]
    loss = {"log_softmax", "pick", "mean", "sum", "argmax", "broadcast_sub", "broadcast_mul"}
    assert loss <= {*found["float32"]} and not {*found["float32"]} & {*found["float16"]}
    assert found["parameters"] == found["statistics"] == ["float32"]


def test_float16_is_refused_where_it_is_not_or_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match="train.precision is float16, which MXNet supports on GPUs only; use float32"):
        use_precision("float16", mx.cpu())
    monkeypatch.setattr("vggdist.models.precision.gpus.describe", lambda index: Gpu("Tesla P100", (6, 0)))
    with pytest.raises(RequestError, match=r"GPU 1 \(Tesla P100\) of compute capability 6.0 has no fast arithmetic"):
        use_precision("float16", mx.gpu(1))
