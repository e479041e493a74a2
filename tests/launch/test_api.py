"""A program trains as a command does, on one rank and on several."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launching import result_of, run

EXAMPLES = Path(__file__).parents[2] / "examples"

_PROGRAM = """
import json, threading
import numpy as np
import vggdist

assert all(getattr(vggdist, name) for name in vggdist.__all__ if name != "load_model")
random, labels = np.random.default_rng(0), np.arange(120) % 3
images = random.integers(0, 100, (120, 8, 8), np.uint8) + (60 * labels[:, None, None]).astype(np.uint8)
small = vggdist.ModelConfig(name="custom", stages=[[1, 8]], hidden=[])  # lists are as good as tuples
told = []

def train(epochs, **more):
    config = vggdist.Config(model=small, train=vggdist.TrainConfig(epochs=epochs, batch_size=8), **more)
    return vggdist.train(config, (images, labels), on_report=lambda *report: told.append(report))

first = train(1)
second = train(2)  # continues the same run
assert second["step"] == 2 * first["step"]
try:
    train(3, run=vggdist.RunConfig(directory=3))
except vggdist.RequestError as error:
    assert "run.directory" in str(error)
else:
    raise AssertionError("a number was taken for a folder")
thread = threading.Thread(target=lambda: train(3))
thread.start()
thread.join()
print("REPORTS", json.dumps([[step, sorted(metrics)] for step, _, metrics in told]))
"""


@pytest.mark.parametrize(("launcher", "size"), [("python", 1), ("horovodrun --gloo", 2)])
def test_a_program_trains_its_arrays_again_and_again(launcher: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(_PROGRAM)
    finished = run(launcher, size, ["program.py"], tmp_path)
    assert finished.code == 0, finished.output
    result = result_of(tmp_path, "custom-given")
    assert result["metrics"]["eval/top1(%)"] > 90 and result["world_size"] == size and result["state"] == "finished"
    told = [json.loads(line.split("REPORTS ")[1]) for line in finished.output.splitlines() if "REPORTS" in line]
    assert len(told) == size and sorted(map(len, told))[:-1] == [0] * (size - 1)  # rank 0 alone
    assert {name for _, names in max(told, key=len) for name in names} >= {"train/loss", "eval/top1(%)"}


def test_the_example_with_arrays(tmp_path: Path) -> None:
    finished = run("python", 1, [str(EXAMPLES / "own_arrays.py")], tmp_path)
    assert finished.code == 0 and "epoch 5: validation loss" in finished.output, finished.output
    assert float(finished.output.split("held out: ")[1].split(" %")[0]) > 90
    assert result_of(tmp_path, "own-arrays")["metrics"].keys() >= {"validation/top1(%)", "eval/top1(%)"}


def test_the_example_that_fine_tunes_and_predicts(tmp_path: Path) -> None:
    finished = run("python", 1, [str(EXAMPLES / "fine_tune.py")], tmp_path)
    assert finished.code == 0 and "checkpoints/step-" in finished.output, finished.output
    assert "initialised, not pretrained: output (" in finished.output
    assert float(finished.output.split("other images: ")[1].split(" %")[0]) > 75
    predicted = [line for line in finished.output.splitlines() if line.startswith("image ") and ": 8 with " in line]
    assert len(predicted) == 5
