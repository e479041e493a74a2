"""Each file is preprocessed as in an evaluation, and one that cannot be read does not affect the others."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from tests.images import noise
from tests.states import MODEL
from tests.trained import parameters, store
from vggdist import predict
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError, VggdistError
from vggdist.config.evaluation import MeasuringConfig
from vggdist.config.images import ReadingConfig
from vggdist.config.schema import ModelConfig
from vggdist.data.augment import EvaluationView
from vggdist.data.encoded import EncodedSource
from vggdist.data.folder import FileStore
from vggdist.inference.evaluation import measure
from vggdist.inference.prediction import predictions
from vggdist.models.model import Model
from vggdist.processes import streams

SPEC = replace(
    MODEL,
    architecture=ModelConfig(name="custom", stages=((1, 4),), hidden=(), batch_norm=True),
    channels=3,
    resize=10,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.25, 0.3),
)
PLAIN = ("--world.bind", "false", "--world.preset", "none", "--run.device", "cpu")
"""In a separate process, so that nothing changes in that of the tests."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    store(folder, SPEC, noise(40, 8, 8, 3))
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return _model()


def _model() -> Model:
    network = Model(SPEC, mx.cpu())
    network.load(parameters(SPEC, noise(40, 8, 8, 3)))
    return network


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Grey, RGBA, a palette, 16 bits, CMYK, rotated by EXIF, long, tiny; JPEG and PNG."""
    folder, exif = tmp_path_factory.mktemp("odd"), Image.Exif()
    exif[0x0112] = 6
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "grey.jpg": (Image.fromarray(noise(20, 30)), {}),
        "grey.png": (Image.fromarray(noise(20, 31)), {}),
        "rgba.png": (Image.fromarray(noise(20, 32, 4)), {}),
        "palette.png": (Image.fromarray(noise(20, 33, 3)).quantize(16), {}),
        "deep.png": (Image.fromarray(noise(20, 34).astype(np.uint16) * 256 + 7), {}),
        "cmyk.jpg": (Image.fromarray(noise(20, 35, 4), "CMYK"), {}),
        "turned.jpg": (Image.fromarray(noise(20, 36, 3)), {"exif": exif}),
        "long.jpg": (Image.fromarray(noise(12, 90, 3)), {}),
        "tiny.png": (Image.fromarray(noise(1, 2, 3)), {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return [folder / name for name in images]


@pytest.fixture
def damaged(tmp_path: Path, odd: list[Path]) -> Path:
    path = tmp_path / "half.png"
    path.write_bytes(odd[1].read_bytes()[:100])
    return path


def _all(
    model: Model, files: Any, at_once: int = 4, crops: Any = 1, views: Any = 1
) -> tuple[list[tuple[Path, np.ndarray]], list[VggdistError]]:
    failures: list[VggdistError] = []
    measuring = MeasuringConfig(batch_size=at_once, crops=crops, views=views)
    batches = predictions(model, files, measuring, ReadingConfig(), failures.append)
    return [one for batch in batches for one in batch], failures


@pytest.mark.parametrize(("crops", "views"), [(1, 1), (10, 1), (1, 2), (1, 6)])
def test_probabilities_are_those_of_an_evaluation(model: Model, odd: list[Path], crops: int, views: int) -> None:
    found, failures = _all(model, odd, at_once=4 * crops * views, crops=crops, views=views)
    assert [path for path, _ in found] == odd and not failures
    values = np.stack([row for _, row in found])
    source = EncodedSource(FileStore(odd), np.zeros(len(odd), np.int32), SPEC.class_names, 3)
    _, expected = measure(model, EvaluationView(source, 10, 8, crops, views), World(), 100, ReadingConfig())
    np.testing.assert_allclose(values[:, 0], expected.probability_of_true, atol=1e-6)
    np.testing.assert_allclose(values.sum(axis=1), 1)
    assert values[:, 0].std() > 0.1  # the network distinguishes the images


def test_the_size_of_the_batches_changes_nothing(model: Model, odd: list[Path]) -> None:
    whole, _ = _all(model, odd, at_once=9)
    for at_once in (1, 2, 100):
        found, _ = _all(model, odd, at_once)
        np.testing.assert_allclose([row for _, row in found], [row for _, row in whole], atol=1e-6)
    assert _all(model, []) == ([], [])


def test_what_is_no_image_is_reported_in_its_place_and_the_rest_goes_on(
    model: Model, odd: list[Path], damaged: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    nothing = RequestError("folder has no image")
    paths = [odd[0], damaged, nothing, odd[1], tmp_path / "text.jpg", tmp_path / "gone.png", tmp_path, odd[2]]
    found, failures = _all(model, paths, at_once=2)
    assert [path for path, _ in found] == odd[:3]
    expected = ("half.png .* does not decode", "folder has no image", "neither JPEG nor PNG", "gone.png", "cannot be read")
    assert len(failures) == 5
    for failure, text in zip(failures, expected):
        assert re.search(text, str(failure))


def test_files_are_taken_as_they_are_needed(model: Model, odd: list[Path]) -> None:
    consumed = 0

    def endless() -> Iterator[Path]:
        nonlocal consumed
        while True:
            consumed += 1
            yield odd[0]

    measuring, reading = MeasuringConfig(batch_size=2), ReadingConfig(prefetch=3)
    batches = predictions(model, endless(), measuring, reading, failed=lambda error: pytest.fail(str(error)))
    assert len(next(batches)) == 2 and consumed <= 2 + 3 * 2 + 1
    batches.close()  # type: ignore[attr-defined]


def test_scores_that_are_not_finite_are_no_prediction(model: Model, odd: list[Path]) -> None:
    broken = _model()
    broken.parameters["vgg_output_bias"].set_data(mx.nd.array([np.nan, 0]))
    found, failures = _all(broken, odd[:3], at_once=2)
    assert not found and len(failures) == 3 and "grey.jpg: the network's scores are not finite" in str(failures[0])


def test_several_crops_need_room_around_the_image(odd: list[Path]) -> None:
    network = Model(replace(SPEC, resize=8), mx.cpu(), seed=1)
    with pytest.raises(RequestError, match="set evaluation.crops to 1"):
        _all(network, odd, at_once=10, crops=5)


def test_the_command_names_what_failed_and_ends_with_1(
    run: Path, odd: list[Path], damaged: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = predict.main([str(run), str(odd[0]), str(damaged), str(odd[2].parent / "*.png"), "--format", "csv", *PLAIN])
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert code == 1 and lines[0] == "image,class_1,probability_1,class_2,probability_2"
    pngs = sorted(str(one) for one in odd if one.suffix == ".png")
    assert [line.split(",")[0] for line in lines[1:]] == [str(odd[0]), *pngs]
    assert "half.png (100 bytes) does not decode" in err and "--data.damaged" not in err
    assert "6 images in" in err and "images/s" in err and err.endswith("vggdist: 1 of 7 images were not predicted\n")


def test_the_command_reads_names_from_standard_input_between_others(
    run: Path, odd: list[Path], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "names").write_bytes(b"\0".join(os.fsencode(path) for path in odd[1:3]))
    kept = os.dup(0)
    with (tmp_path / "names").open() as names:
        os.dup2(names.fileno(), 0)
    try:
        code = predict.main([str(run), str(odd[0]), "-", str(odd[3]), "--null", "--top", "1", *PLAIN])
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    out = capfd.readouterr().out
    assert code == 0 and [line.split()[-1] for line in out.splitlines()] == [str(path) for path in odd[:4]]
    assert all("round" in line or "square" in line for line in out.splitlines()) and "%" in out


class _Ends(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str, /) -> int:
        raise self._error


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [(BrokenPipeError(), 0, ""), (OSError(28, "No space left on device"), 1, "standard output cannot be written: No space")],
)
def test_output_that_ends_ends_the_command(
    run: Path,
    odd: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    message: str,
) -> None:
    monkeypatch.setattr(streams, "results", lambda: _Ends(error))
    assert predict.main([str(run), str(odd[0]), *PLAIN]) == code
    assert message in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing", "a.png"), "nothing is not a folder"),
        ((), "the following arguments are required: PATH"),
        (("a.png", "--top", "0"), "'0' is not a positive number"),
        (("a.png", "--format", "xml"), "invalid choice: 'xml'"),
        (("a.png", "--data.root", "x"), "unknown key data.root"),
        (("a.png", "--evaluation.crops", "3"), "evaluation.crops"),
        (("a.png", "--evaluation.crops", "5", "--evaluation.views", "2"), "evaluation.views is 2; expected 1 with"),
    ],
)
def test_a_request_that_is_wrong_ends_with_2(
    run: Path, arguments: tuple[str, ...], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = () if arguments[:1] == ("nothing",) else (str(run),)
    assert predict.main([*first, *arguments, *PLAIN]) == 2
    out, err = capfd.readouterr()
    assert not out and message in err and err.count("\n") == 1


def test_several_processes_are_refused(run: Path) -> None:
    with pytest.raises(RequestError, match="predict runs in one process, but a launcher started 2"):
        predict.predict([str(run), "a.png"], processes=2)
