"""A run continues only what is the same training, and keeps its global batch on another number of ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from vggdist.checkpoints.schema import FORMAT
from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig, DataConfig
from vggdist.config.schema import Config, EvaluationConfig, ModelConfig, TrainConfig
from vggdist.data.sampler import make_plan
from vggdist.data.sources import ArraySource, load
from vggdist.training.metrics import MovingAverage
from vggdist.training.progress import Progress
from vggdist.training.start import Start, augmentation, find, fitting_batch_size, identity, stand
from vggdist.world.process import World


def begun_by(ranks: int, now: int) -> dict[str, Any]:
    return {"scaled_for_ranks": ranks, "world_size": now}


def test_a_new_run_multiplies_the_batch_by_its_ranks() -> None:
    assert fitting_batch_size(TrainConfig(batch_size=8), 3, None) == 24


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 24])
@pytest.mark.parametrize("now", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 5])
def test_on_any_number_of_ranks_the_global_batch_stays(ranks: int, now: int, accumulation: int) -> None:
    assert fitting_batch_size(TrainConfig(batch_size=8, accumulation=accumulation), ranks, begun_by(3, now)) == 24


def test_an_elastic_run_begins_on_any_number_of_ranks() -> None:
    with pytest.raises(RequestError, match="32 samples, which 3 ranks"):
        fitting_batch_size(TrainConfig(global_batch_size=32), 3, None)
    assert fitting_batch_size(TrainConfig(global_batch_size=32), 3, None, elastic=True) == 32


def test_another_batch_is_not_hidden() -> None:
    assert fitting_batch_size(TrainConfig(batch_size=9), 2, begun_by(3, now=2)) == 27


def digits_identity(config: Config) -> dict[str, Any]:
    data = load(config.data, config.run.seed)
    return identity(config, data, make_plan(len(data.train), 32, 1, config.run.seed, drop_last=False))


def test_paths_and_rates_may_change_between_two_parts_of_a_run() -> None:
    moved = Config(
        data=DataConfig(root="/elsewhere"),
        model=ModelConfig(dropout=0.1),
        train=TrainConfig(epochs=7),
        augment=AugmentConfig(resize=256),
        evaluation=EvaluationConfig(crops=10),
    )
    assert digits_identity(moved) == digits_identity(Config())


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (Config(model=ModelConfig(head="global_average")), "model.head"),
        (Config(model=ModelConfig(padding=0)), "model.padding"),
        (Config(data=DataConfig(held_out=0.5)), "training samples"),
        (Config(run=replace(Config().run, seed=3)), "seed"),
    ],
)
def test_another_model_or_data_set_is_refused_with_its_first_difference(config: Config, key: str) -> None:
    start = Start({}, {"identity": digits_identity(Config())})
    with pytest.raises(RequestError, match=f"the checkpoint's {key}.* is .*, this run's is "):
        stand(start, {}, Progress(MovingAverage(0.1)), digits_identity(config), {}, World())


def test_another_normalisation_is_refused_and_another_augmentation_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An epoch without mixup is the same run; other statistics make the parameters worthless."""
    identities, kinds = (
        [tell(Config(augment=augment)) for augment in (AugmentConfig(), AugmentConfig(normalize="none", mixup=0.2))]
        for tell in (digits_identity, augmentation)
    )
    state = {**Progress(MovingAverage(0.1)).as_state(), **begun_by(1, 1), "threads": None}
    start = Start({}, {**state, "identity": identities[0], "augmentation": kinds[0]})
    with pytest.raises(RequestError, match="augment.normalize is published, this run's is none"):
        stand(start, {}, Progress(MovingAverage(0.1)), identities[1], kinds[1], World())
    stand(start, {}, Progress(MovingAverage(0.1)), identities[0], kinds[1], World())
    assert "augment.mixup: 0.0 before, 0.2 now; the run goes on" in caplog.text


def test_equal_sizes_do_not_make_equal_data() -> None:
    data = load(DataConfig(), 0)
    assert isinstance(data.train, ArraySource)
    other = replace(data, train=ArraySource(data.train.images, data.train.labels[::-1], data.train.class_names))
    plan = make_plan(len(data.train), 32, 1, 0, drop_last=False)
    one, two = identity(Config(), data, plan), identity(Config(), other, plan)
    assert {name for name in one if one[name] != two[name]} == {"SHA-256 of the training labels"}


def test_a_checkpoint_of_another_format_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save([("parameter/a", np.zeros(2, np.float32))], {"step": 3, "format": FORMAT + 1})
    with pytest.raises(RequestError, match="step-00000003 was written by another version"):
        find(store, World())


def test_a_run_without_checkpoints_keeps_its_initial_parameters() -> None:
    arrays = {"parameter/a": mx.nd.array([1.5, -2])}
    progress = Progress(MovingAverage(0.1))
    stand(find(None, World()), arrays, progress, {}, {}, World())
    assert arrays["parameter/a"].asnumpy().tolist() == [1.5, -2] and progress.step == 0
