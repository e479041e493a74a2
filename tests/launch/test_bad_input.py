"""Each wrong request ends in one clear message and the documented exit code; each kind does so under every launcher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import rank_pool
from tests.launching import train
from vggdist.reporting.result import read_outcome


def nothing(folder: Path) -> None:
    """The request alone is wrong."""


def truncated_cifar(folder: Path) -> None:
    batches = folder / "data" / "cifar-10-batches-bin"
    batches.mkdir(parents=True)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        (batches / name).write_bytes(bytes(3073 * 10_000))
    (batches / "data_batch_3.bin").write_bytes(bytes(3073 * 9_999 + 5))
    (batches / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n")


def images(folder: Path, count: int) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (folder / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((8, 8, 3), 20 * i, np.uint8)
                Image.fromarray(pixels).save(folder / "data" / part / name / f"{i}.jpg")


def undecodable_jpeg(folder: Path) -> None:
    images(folder, 4)
    (folder / "data" / "train" / "dog" / "2.jpg").write_bytes(b"not an image")


def two_samples(folder: Path) -> None:
    images(folder, 1)


SMALL = ["--model.name", "custom", "--model.stages", "[[1, 8]]", "--model.hidden", "[]"]
FOLDER = ["--data.name", "folder", *SMALL]

CASES: dict[str, tuple[Callable[[Path], None], list[str], int, str]] = {
    "unknown-key": (nothing, ["--train.epoch", "3"], 2, "unknown key train.epoch; did you mean train.epochs?"),
    "wrong-value": (
        nothing,
        ["--optimizer.learning_rate", "fast"],
        2,
        "optimizer.learning_rate is 'fast'; expected a valid number",
    ),
    "missing-file": (nothing, ["--data.name", "cifar10", *SMALL], 2, "--data.download true"),
    "truncated-cifar": (truncated_cifar, ["--data.name", "cifar10", *SMALL], 2, "data_batch_3.bin"),
    "undecodable-jpeg": (undecodable_jpeg, FOLDER, 2, "dog/2.jpg"),
    "batch-larger-than-data-set": (nothing, ["--train.global_batch_size", "1440"], 2, "the global batch has 1440 samples"),
    "more-ranks-than-samples": (two_samples, [*FOLDER, "--train.batch_size", "1"], 2, "3 ranks for 2 training samples"),
    "missing-weights": (nothing, ["--model.pretrained", "none.pth"], 2, "none.pth cannot be read: No such file"),
    "elastic-without-its-launcher": (nothing, ["--run.elastic", "true"], 2, "horovodrun --host-discovery-script"),
    "nonfinite-loss": (nothing, ["--optimizer.learning_rate", "1e30"], 1, "on rank 0 is not finite"),
}


@pytest.mark.parametrize(
    ("case", "launcher"),
    [
        *(("wrong-value", launcher) for launcher in ("python", "horovodrun --gloo", "mpirun")),  # each rank by itself
        *(("undecodable-jpeg", launcher) for launcher in ("horovodrun --gloo", "horovodrun", "mpirun")),  # on one rank alone
        ("nonfinite-loss", "mpirun"),  # in the training
    ],
)
def test_a_wrong_request_ends_a_job_in_one_message_and_its_exit_code(case: str, launcher: str, tmp_path: Path) -> None:
    make, flags, code, message = CASES[case]
    make(tmp_path)
    size = 1 if launcher == "python" else 2
    finished = train(launcher, size, tmp_path, *flags, VGGDIST_OUTCOME=str(tmp_path / "outcome"))
    assert finished.output.count(message) == 1, finished.output
    assert 'train.py", line' not in finished.output, "a traceback of ours"
    # horovodrun itself turns every code into 1; on MPI it hands mpirun's through.
    assert finished.code in ((1, code) if launcher.startswith("horovodrun") else (code,)), finished.output
    require_outcome(tmp_path, code, message)


def require_outcome(folder: Path, code: int, message: str) -> None:
    """Check what a request that failed has recorded; a refused one has no folder."""
    outcome = read_outcome(folder / "outcome")
    assert outcome is not None and outcome.exit_code == code and message in outcome.error
    assert (folder / "runs").exists() == (code == 1)


ALONE = ("unknown-key", "undecodable-jpeg", "elastic-without-its-launcher", "nonfinite-loss")
ON_ALL_RANKS = ("missing-file", "truncated-cifar", "batch-larger-than-data-set", "missing-weights", "nonfinite-loss")


@pytest.mark.parametrize(
    ("case", "size"),
    [*((case, 1) for case in ALONE), *((case, 2) for case in ON_ALL_RANKS), ("more-ranks-than-samples", 3)],
)
def test_a_wrong_request_ends_in_one_message_on_all_ranks(case: str, size: int, tmp_path: Path) -> None:
    make, flags, code, message = CASES[case]
    make(tmp_path)
    launcher = "python" if size == 1 else "horovodrun --gloo"
    finished = rank_pool.train(launcher, size, tmp_path, *flags, VGGDIST_OUTCOME=str(tmp_path / "outcome"))
    assert finished.code == code and finished.output.count(message) == 1, finished.output
    assert 'train.py", line' not in finished.output, "a traceback of ours"
    require_outcome(tmp_path, code, message)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--train.stepz", "2"],
        ["--data.name", "cifar10", "--data.root", "nowhere"],
        ["--model.width_divisor", "2"],
        ["--model.name", "vgg16", "--model.stages", "null"],
        ["--train.global_batch_size", "1440"],
        ["--run.device", "gpu"],
        ["--run.resume", "never"],
    ],
    ids=lambda flags: flags[0],
)
def test_a_refused_request_leaves_every_file_of_a_run_as_it_was(wrong: list[str], finished_run: Path) -> None:
    before = contents(finished_run)
    finished = rank_pool.train("python", 1, finished_run, "--train.steps", "2", *wrong)
    assert finished.code == 2 and contents(finished_run) == before, finished.output
    assert "is being trained by" not in finished.output


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which ``runs/quickstart`` was trained for two steps."""
    folder = tmp_path_factory.mktemp("finished")
    assert rank_pool.train("python", 1, folder, "--train.steps", "2").code == 0
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files; but for the lock, whose holder changes."""
    files = {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    assert any(name.endswith("result.json") for name in files)
    return files
