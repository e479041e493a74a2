"""The programs in docs/inference.md run, and preprocess an image as vggdist predict does."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from tests.images import noise, photograph
from tests.states import MODEL
from tests.trained import store
from vggdist.config.images import ReadingConfig
from vggdist.config.schema import ModelConfig
from vggdist.inference import exporting
from vggdist.inference.prediction import framed, probabilities

PROGRAMS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs" / "inference.md").read_text(), flags=re.DOTALL
)
SPEC = replace(
    MODEL,
    architecture=ModelConfig(name="custom", stages=((1, 4),), hidden=(), batch_norm=True),
    channels=3,
    image_size=64,
    resize=72,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)


@pytest.mark.filterwarnings("ignore:Cannot decide type")  # Gluon warns about every symbol without types
def test_programs_that_use_an_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photograph(201)[:, :150]).save("photograph.jpg", exif=exif)
    found = store(tmp_path, SPEC, noise(20, 64, 64, 3))
    onnx, symbol, prepare = PROGRAMS
    seen: dict[str, Any] = {}
    exec(prepare, seen)
    ((_, expected),) = framed(SPEC, [Path("photograph.jpg")], ReadingConfig())
    assert isinstance(expected, np.ndarray)
    np.testing.assert_array_equal(seen["images"], expected)
    for program, form, output in ((onnx, "onnx", "digits.onnx"), (symbol, "symbol", "digits")):
        if form == "onnx" and importlib.util.find_spec("onnxruntime") is None:
            continue
        exporting.export(found, exporting.format_of(form), tmp_path / output, [seen["images"]])
        result = {"images": seen["images"]}
        exec(program, result)
        np.testing.assert_allclose(result["probabilities"], probabilities(found.model(mx.cpu()), seen["images"]), atol=1e-5)
        assert result["class_names"] == ["round", "square"]
