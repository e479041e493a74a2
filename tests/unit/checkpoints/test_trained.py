"""Which checkpoint a command uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.states import training_state
from vggdist.checkpoints.store import CheckpointStore
from vggdist.checkpoints.trained import read
from vggdist.config.errors import RequestError
from vggdist.config.inference import EvaluateConfig, Place, place, settings


def saved(run: Path, *steps: int, best: int | None) -> CheckpointStore:
    store = CheckpointStore(run / "checkpoints")
    for step in steps:
        arrays = [("optimizer/a", np.zeros(1, np.float32)), ("parameter/a", np.full(2, step, np.float32))]
        store.save(arrays, training_state(step, best_step=best, identity={"seed": 5}))
    return store


@pytest.mark.parametrize(("checkpoint", "step"), [(None, 10), ("best", 10), ("latest", 30), ("20", 20)])
def test_the_best_the_newest_or_that_of_a_step(tmp_path: Path, checkpoint: str | None, step: int) -> None:
    saved(tmp_path, 10, 20, 30, best=10)
    found = read(place(str(tmp_path), checkpoint))
    assert found.step == step and found.seed == 5 and list(found.parameters) == ["parameter/a"]
    assert found.parameters["parameter/a"].tolist() == [step] * 2 and len(found.sha256) == 64


def test_an_average_takes_the_place_of_its_weight(tmp_path: Path) -> None:
    names = ("average/a", "parameter/a", "parameter/frozen")
    arrays = {name: np.full(1, value, np.float32) for value, name in enumerate(names)}
    CheckpointStore(tmp_path / "checkpoints").save(arrays.items(), training_state(10))
    found = read(place(str(tmp_path), "latest")).parameters
    assert {name: array.tolist() for name, array in found.items()} == {"parameter/a": [0], "parameter/frozen": [2]}


def test_a_checkpoint_alone_wherever_it_was_copied_to(tmp_path: Path) -> None:
    path = saved(tmp_path / "run", 10, best=None).path(10).rename(tmp_path / "mine")
    assert place(str(path), None) == Place(None, str(path))
    assert read(place(str(path), None)).step == read(place(str(tmp_path / "run"), str(path))).step == 10


def test_a_checkpoint_within_its_run_has_the_settings_of_that_run(tmp_path: Path) -> None:
    path = saved(tmp_path, 10, best=None).path(10)
    (tmp_path / "config.yaml").write_text("data: {name: mnist, root: /images}\noptimizer: {name: adam}\n")
    where = place(str(path), None)
    config = settings(where, [("data.root", "/others"), ("data.part", "train")], EvaluateConfig)
    assert where.run == tmp_path and (config.data.name, config.data.root, config.data.part) == ("mnist", "/others", "train")


def test_before_the_first_evaluation_the_newest_is_taken_and_it_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved(tmp_path, 10, 20, best=None)
    assert read(place(str(tmp_path), None)).step == 20
    assert "was evaluated yet: using the newest as the best" in caplog.text


def test_a_damaged_newest_checkpoint_is_passed_over_for_its_best_step(tmp_path: Path) -> None:
    store = saved(tmp_path, 10, 20, best=10)
    (store.path(20) / "state.json").write_text("{}")
    assert read(place(str(tmp_path), "best")).step == 10


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("15", "has no checkpoint of step 15; it has 20, 30"),
        ("best", "the best checkpoint of .*, step 10, no longer exists; use --checkpoint latest"),
        ("newest", "--checkpoint newest is neither best, latest, a step nor the folder of a checkpoint"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, checkpoint: str, message: str) -> None:
    saved(tmp_path, 20, 30, best=10)
    with pytest.raises(RequestError, match=message):
        read(place(str(tmp_path), checkpoint))


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has no checkpoint; train it first"):
        read(place(str(tmp_path), None))
    with pytest.raises(RequestError, match="nothing is not a folder; specify the folder of a run"):
        place("nothing", None)
    path = saved(tmp_path, 10, best=None).path(10)
    with pytest.raises(RequestError, match="is a checkpoint; remove --checkpoint"):
        place(str(path), "latest")
