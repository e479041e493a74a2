"""An export computes the same as the network, or is not written."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from PIL import Image

from tests.images import noise
from tests.launching import DEADLINE
from tests.states import MODEL
from tests.trained import store
from vggdist import export
from vggdist.checkpoints.trained import Trained
from vggdist.config.data_sets import DATA_SETS
from vggdist.config.errors import RequestError, RunError
from vggdist.config.images import ReadingConfig
from vggdist.config.schema import ModelConfig
from vggdist.inference import exporting, symbol_file
from vggdist.inference.comparison import Network, compare
from vggdist.inference.prediction import probabilities
from vggdist.models.spec import ModelSpec

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason="onnx and onnxruntime are not installed (the extra vggdist[onnx])",
)
FORMATS = [pytest.param("onnx", marks=needs_onnx), "symbol"]
COLOUR: dict[str, Any] = {"channels": 3, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
SPEC = replace(
    MODEL,
    architecture=ModelConfig(name="custom", stages=((1, 4),), hidden=(6,), batch_norm=True),
    class_names=("round", "square", "züge\n\"x'"),
    **COLOUR,
)


def reopened(name: str, files: Sequence[Path]) -> Network:
    return exporting.format_of(name).load(files)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("architecture", "size", "channels"),
    [
        (ModelConfig(name="custom", stages=((1, 8), (2, 16)), hidden=(32,), batch_norm=True), 16, 3),
        (ModelConfig(name="custom", stages=((1, 8), (2, 16)), hidden=(32, 16), dropout=0.5), 17, 1),
        (ModelConfig(name="custom", stages=((1, 8), (1, 16)), hidden=(), padding=0, batch_norm=True), 21, 3),
        (ModelConfig(name="custom", stages=((1, 8), (1, 16)), hidden=(8,), head="global_average", batch_norm=True), 20, 3),
        (
            ModelConfig(
                name="custom",
                widths=((8, 6), (16,)),
                hidden=(8,),
                head="global_max",
                batch_norm=True,
                activation="gelu",
                early_pooling=True,
                whitening=True,
            ),
            20,
            3,
        ),
    ],
)
def test_every_kind_of_network_for_any_number_of_images(
    form: str, architecture: ModelConfig, size: int, channels: int, tmp_path: Path
) -> None:
    spec = replace(SPEC if channels == 3 else MODEL, architecture=architecture, image_size=size, resize=size)
    images = noise(40, size, size, channels)
    found = store(tmp_path, spec, images)
    _, files = exporting.export(found, exporting.format_of(form), tmp_path / f"net.{form}", [images])
    exported, model = reopened(form, files), found.model(mx.cpu())
    for number in (1, 7, 40, 2):
        ours, theirs = probabilities(model, images[:number]), exported(images[:number])
        assert theirs.shape == (number, len(spec.class_names)) and theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, ours, atol=2e-5)
    assert probabilities(model, images).std(axis=0).min() > 0.1  # the network distinguishes the images


EXPECTED = {
    "class_names": json.dumps(SPEC.class_names),
    "image_size": "8",
    "resize": "8",
    "channels": "3",
    "checkpoint_step": "10",
}


@needs_onnx
def test_the_onnx_file_says_what_it_is(tmp_path: Path) -> None:
    import onnxruntime

    found = store(tmp_path, SPEC)
    files = _export(found, "onnx", tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(files[0]))
    (images,), (output,) = session.get_inputs(), session.get_outputs()
    assert (images.name, images.type, images.shape) == ("images", "tensor(uint8)", ["batch", 8, 8, 3])
    assert (output.name, output.type, output.shape) == ("probabilities", "tensor(float)", ["batch", 3])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata.items() >= (EXPECTED | {"checkpoint_sha256": found.sha256}).items()
    assert metadata["preprocessing"].endswith("crop the central 8 x 8, pass bytes of RGB")


def _export(found: Trained, form: str, output: Path) -> list[Path]:
    return exporting.export(found, exporting.format_of(form), output, [noise(6, 8, 8, 3)])[1]


_PROGRAM = """
import json, sys
sys.modules["vggdist"] = None  # importing it fails
import mxnet as mx
import numpy as np

folder = sys.argv[1]
symbol, arguments, states = mx.model.load_checkpoint(folder + "/net", 0)
images = np.load(folder + "/images.npy")
for count in (len(images), 1):  # the batch size is variable
    executor = symbol.bind(mx.cpu(), {**arguments, "images": mx.nd.array(images[:count], dtype="uint8")}, aux_states=states)
    found = executor.forward(is_train=False)[0].asnumpy()
    if count > 1:
        np.save(folder + "/found.npy", found)
block = mx.gluon.SymbolBlock.imports(folder + "/net-symbol.json", ["images"], folder + "/net-0000.params")
difference = np.abs(block(mx.nd.array(images, dtype="uint8")).asnumpy() - np.load(folder + "/found.npy")).max()
assert difference < 1e-5, difference
print(json.dumps(symbol.attr_dict()["images"]))
"""


def test_the_symbol_runs_in_plain_mxnet_and_says_what_it_is(tmp_path: Path) -> None:
    images = noise(40, 8, 8, 3)
    found = store(tmp_path, SPEC, images)
    _export(found, "symbol", tmp_path / "net")
    np.save(tmp_path / "images.npy", images)
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE
    )
    assert finished.returncode == 0, finished.stderr
    expected = probabilities(found.model(mx.cpu()), images)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), expected, atol=2e-5)
    assert json.loads(finished.stdout).items() >= (EXPECTED | {"checkpoint_sha256": found.sha256}).items()


@pytest.mark.skipif("VGGDIST_TEST_DATA" not in os.environ, reason="VGGDIST_TEST_DATA names no folder of real images")
@pytest.mark.parametrize("form", FORMATS)
def test_jpeg_images_of_cifar10_have_the_same_probabilities(form: str, cifar10: Path, tmp_path: Path) -> None:
    architecture = ModelConfig(name="vgg11", width_divisor=4, hidden=(64,), batch_norm=True)
    info, classes = DATA_SETS["cifar10"], tuple(sorted(path.name for path in cifar10.iterdir()))
    spec = ModelSpec(architecture, classes, 3, 32, 32, info.mean, info.std)
    images = np.concatenate([*exporting.batches(spec, [str(cifar10)], ReadingConfig())])
    assert images.shape == (1000, 32, 32, 3)
    found = store(tmp_path, spec, images[::5])
    comparison, files = exporting.export(found, exporting.format_of(form), tmp_path / "net", [images])
    assert comparison.equal and comparison.images == 1000 and comparison.largest <= 1e-4, str(comparison)
    values = reopened(form, files)(images)
    assert len(np.unique(values.argmax(axis=1))) == 10 and 0.4 < np.median(values.max(axis=1)) < 0.999


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth test image, in folders by class."""
    folder = tmp_path_factory.mktemp("cifar10")
    with tarfile.open(Path(os.environ["VGGDIST_TEST_DATA"]) / "cifar10-jpeg.tar.xz") as archive:
        members = [member for member in archive if member.isfile() and "test/" in member.name][::10]
        archive.extractall(folder, members=members, filter="data")
    return next(folder.rglob("test"))


@pytest.mark.parametrize("form", FORMATS)
def test_a_checkpoint_gives_the_same_bytes_each_time(form: str, tmp_path: Path) -> None:
    found = store(tmp_path, SPEC)
    first, second = (_export(found, form, tmp_path / name / "net") for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("form", FORMATS)
def test_another_result_is_removed_and_what_was_there_stays(form: str, tmp_path: Path) -> None:
    found, folder = store(tmp_path, SPEC, noise(40, 8, 8, 3)), tmp_path / "export"
    before = {path: path.read_bytes() for path in _export(found, form, folder / "net")}
    written = exporting.format_of(form)
    other = SimpleNamespace(
        SUFFIX=written.SUFFIX, paths=written.paths, load=written.load, write=_writes_another_network(written.write)
    )
    with pytest.raises(RunError, match="computes something else and was removed: 6 images, largest difference"):
        exporting.export(found, other, folder / "net", [noise(6, 8, 8, 3)])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def _writes_another_network(write: Any) -> Any:
    def changed(found: Trained, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
        wrong = dict(found.parameters)
        wrong["parameter/vgg_output_bias"] = wrong["parameter/vgg_output_bias"] + np.array([0.01, 0, 0], np.float32)
        write(replace(found, parameters=wrong), files, metadata)

    return changed


def test_a_full_disk_and_a_place_that_cannot_be_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = store(tmp_path, SPEC)
    (tmp_path / "file").touch()
    (tmp_path / "net-symbol.json").mkdir()
    with pytest.raises(RequestError, match="net-symbol.json is a folder; name a file with --output"):
        _export(found, "symbol", tmp_path / "net")
    with pytest.raises(RunError, match="file cannot be written: File exists|Not a directory"):
        _export(found, "symbol", tmp_path / "file" / "net")

    def full(*arguments: Any) -> None:
        raise mx.MXNetError("traceback\n  Check failed: No space left on device")

    monkeypatch.setattr(mx.nd, "save", full)
    with pytest.raises(RunError, match="params.*cannot be written: Check failed: No space left"):
        _export(found, "symbol", tmp_path / "new" / "net")
    assert not list((tmp_path / "new").iterdir())


@needs_onnx
def test_a_network_that_no_onnx_file_holds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vggdist.inference import onnx_file

    monkeypatch.setattr(onnx_file, "_LARGEST", 100)
    with pytest.raises(RequestError, match="GiB of weights, an ONNX file can have 2; use --format symbol"):
        _export(store(tmp_path, SPEC), "onnx", tmp_path / "net.onnx")


def test_without_the_packages_the_request_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "vggdist.inference.onnx_file", raising=False)
    monkeypatch.delattr("vggdist.inference.onnx_file", raising=False)
    with pytest.raises(RequestError, match=r"--format onnx needs the packages onnx and onnxruntime .*vggdist\[onnx\]"):
        exporting.format_of("onnx")


def test_images_to_compare_on_are_seen_as_an_evaluation_sees_them(tmp_path: Path) -> None:
    for number in range(40):
        Image.fromarray(noise(16, 20 + number)).save(tmp_path / f"{number:02}.png")
    batches = [*exporting.batches(replace(SPEC, resize=10), [str(tmp_path)], ReadingConfig())]
    assert [batch.shape for batch in batches] == [(32, 8, 8, 3), (8, 8, 8, 3)]
    (tmp_path / "40.png").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="40.png .* does not decode: its content is neither JPEG nor PNG$"):
        [*exporting.batches(SPEC, [str(tmp_path)], ReadingConfig())]


PLAIN = ("--world.bind", "false", "--world.preset", "none")
"""In a separate process, so that nothing changes in that of the tests."""


def test_the_command_writes_beside_its_run_and_prints_the_comparison(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = store(tmp_path, SPEC)
    assert export.main([str(tmp_path), "--format", "symbol", *PLAIN]) == 0
    first, second = capfd.readouterr().out.splitlines()
    assert first.startswith("compared with the network: 26 images, largest difference of probabilities ")
    assert first.endswith(", the same top-1") and second.endswith("export/step-00000010-symbol.json")
    files = symbol_file.paths(tmp_path / "export" / "step-00000010")
    images = noise(5, 8, 8, 3)
    model = found.model(mx.cpu())
    assert compare(lambda batch: probabilities(model, batch), symbol_file.load(files), [images]).equal
    assert len(list((tmp_path / "export").iterdir())) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_a_device_or_pipe_is_not_replaced(form: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, SPEC)
    for name in ("pipe", "pipe-symbol.json", "pipe-0000.params"):
        os.mkfifo(tmp_path / name)
    assert export.main([str(tmp_path), "--format", form, "--output", str(tmp_path / "pipe"), *PLAIN]) == 2
    assert "is not a regular file; name a file with --output" in capfd.readouterr().err
    assert all(path.is_fifo() for path in tmp_path.glob("pipe*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "symbol", "--images", "gone.png"], "gone.png cannot be read"),
        (["--format", "torch"], "invalid choice: 'torch'"),
        ([], "the following arguments are required: --format"),
    ],
)
def test_a_request_that_is_wrong_ends_with_2(
    tmp_path: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, SPEC)
    assert export.main([str(tmp_path), *arguments, *PLAIN]) == 2
    assert message in capfd.readouterr().err and not list(tmp_path.glob("export/*"))
