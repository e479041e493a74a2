"""A run continues only the same training, and keeps its global batch on another number of ranks."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from tests.states import training_state
from vggdist.checkpoints.schema import FORMAT, CheckpointState
from vggdist.checkpoints.store import CheckpointStore
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig, DataConfig
from vggdist.config.schema import Config, EvaluationConfig, ModelConfig, RunConfig, TrainConfig
from vggdist.data.dataset import DataSet, load
from vggdist.data.fingerprint import part_identity
from vggdist.data.sampler import make_plan
from vggdist.training.inputs import model_spec
from vggdist.training.metrics import MovingAverage
from vggdist.training.progress import Progress
from vggdist.training.resume import Start, batch_size_of, find, identity, restore, settings

_MODEL = ModelConfig(name="custom", stages=((1, 8),))


def begun_by(ranks: int) -> CheckpointState:
    return training_state(0, scaled_for_ranks=ranks)


def config_of(**train: Any) -> Config:
    return Config(train=TrainConfig(**train))


def test_a_new_run_multiplies_the_batch_by_its_ranks() -> None:
    assert batch_size_of(config_of(batch_size=8), 3, None) == 24


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("accumulation", [1, 5])
def test_on_any_number_of_ranks_the_global_batch_stays(ranks: int, accumulation: int) -> None:
    assert batch_size_of(config_of(batch_size=8, accumulation=accumulation), ranks, begun_by(3)) == 24


def test_an_elastic_run_begins_on_any_number_of_ranks() -> None:
    config = config_of(global_batch_size=32)
    with pytest.raises(RequestError, match="32 samples, which is not divisible by 3 ranks"):
        batch_size_of(config, 3, None)
    assert batch_size_of(replace(config, run=RunConfig(elastic=True)), 3, None) == 32


def test_another_batch_is_not_hidden() -> None:
    assert batch_size_of(config_of(batch_size=9), 2, begun_by(3)) == 27


def small(**sections: Any) -> Config:
    return Config(**{"model": _MODEL, **sections})


def state_of(config: Config, data: DataSet | None = None, **values: Any) -> CheckpointState:
    """The checkpoint state at the start of a run on digits."""
    data = data or load(config.data, config.run.seed)
    kept = {
        "model": model_spec(config, data, World()).as_json(),
        "data": dict(data.identity),
        "identity": identity(config, make_plan(len(data.train), 32, 1, config.run.seed, drop_last=False)),
        "settings": settings(config),
        "threads": None,
        "interval": None,
    }
    return training_state(7, **kept | values)


def continued(before: CheckpointState, now: CheckpointState) -> Progress:
    progress = Progress(MovingAverage(0.1))
    restore(Start({}, before), now, {}, progress, World())
    return progress


def test_paths_and_rates_may_change_between_two_parts_of_a_run(caplog: pytest.LogCaptureFixture) -> None:
    changed = small(
        data=DataConfig(root="/elsewhere"),
        model=replace(_MODEL, dropout=0.1),
        train=TrainConfig(epochs=7),
        augment=AugmentConfig(mixup=0.2, pad_crop=2, pad_mode="reflect", flip="alternating"),
        evaluation=EvaluationConfig(views=6),
    )
    with caplog.at_level(logging.INFO):
        assert continued(state_of(small()), state_of(changed)).step == 7
    for line in (
        "model.dropout: 0.5 before, 0.1",
        "augment.mixup: 0.0 before, 0.2",
        "augment.pad_mode: 'constant' before, 'reflect'",
        "augment.flip: false before, 'alternating'",
        "evaluation.views: 1 before, 6",
    ):
        assert f"{line} from step 7 on" in caplog.text
    assert "data.root" not in caplog.text and "train.epochs" in caplog.text


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            small(model=replace(_MODEL, head="global_average")),
            "checkpoint's model.head is 'flatten', this",
        ),
        (small(model=replace(_MODEL, padding=0)), "checkpoint's model.padding is 1, this run's is 0"),
        (small(data=DataConfig(held_out=0.5)), "the training set had 1438 images before and has 899 now"),
        (small(data=DataConfig(validation=0.1)), "the training set had 1438 images before and has 1295 now"),
        (small(run=RunConfig(seed=3)), "checkpoint's seed is 0, this run's is 3"),
        (small(augment=AugmentConfig(normalize="none")), "checkpoint's augment.normalize is published, this run's is none"),
    ],
)
def test_another_model_or_data_set_is_refused_with_its_first_difference(config: Config, expected: str) -> None:
    with pytest.raises(RequestError, match=re.escape(expected)):
        continued(state_of(small()), state_of(config))


def test_equal_sizes_do_not_make_equal_data() -> None:
    data = load(DataConfig(), 0)
    contents = str(data.identity["train"]["contents"])
    other = part_identity(data.train.labels[::-1], data.train.class_names, contents)
    now = state_of(small(), replace(data, identity={**data.identity, "train": other}))
    with pytest.raises(RequestError, match="the training set has its labels in another order"):
        continued(state_of(small()), now)


def test_other_pixels_and_another_test_set_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    data = load(DataConfig(), 0)
    touched = {name: {**part, "contents": "0" * 64} for name, part in data.identity.items()}
    continued(state_of(small()), state_of(small(), replace(data, identity=touched)))
    assert "the training set" in caplog.text and "the test set" in caplog.text


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save([("parameter/a", np.zeros(2, np.float32))], {"step": 3, "format": FORMAT + 1})
    with pytest.raises(RequestError, match="step-00000003 was written by another version"):
        find(store, World())


def test_a_run_without_checkpoints_keeps_its_initial_parameters() -> None:
    arrays = {"parameter/a": mx.nd.array([1.5, -2])}
    progress = Progress(MovingAverage(0.1))
    restore(find(None, World()), training_state(0), arrays, progress, World())
    assert arrays["parameter/a"].asnumpy().tolist() == [1.5, -2] and progress.step == 0
