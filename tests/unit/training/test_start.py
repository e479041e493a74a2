"""A run continues only what is the same training, and keeps its global batch on another number of ranks."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from vggdist.checkpoints.store import CheckpointStore
from vggdist.config.errors import RequestError
from vggdist.config.schema import AugmentConfig, Config, DataConfig, EvaluationConfig, ModelConfig, TrainConfig
from vggdist.data.sampler import make_plan
from vggdist.data.sources import ArraySource, load
from vggdist.training.metrics import MovingAverage
from vggdist.training.progress import Progress
from vggdist.training.start import FORMAT, Start, find, fitting_batch_size, identity, stand
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
        stand(start, {}, Progress(MovingAverage(0.1)), digits_identity(config), World())


_OTHER_AUGMENTATION = {
    "random_resized_crop": True,
    "crop_scale": (0.5, 1.0),
    "crop_ratio": (1.0, 1.0),
    "scale_jitter": (256, 512),
    "pad_crop": 1,
    "flip": True,
    "randaugment": (2, 9),
    "brightness": 0.1,
    "contrast": 0.1,
    "saturation": 0.1,
    "lighting": 0.1,
    "cutout": 2,
    "erasing": 0.1,
    "mixup": 0.1,
    "cutmix": 0.1,
    "normalize": "none",
}


def test_every_kind_of_augmentation_is_tried_below() -> None:
    assert {"resize", *_OTHER_AUGMENTATION} == {field.name for field in fields(AugmentConfig)}


@pytest.mark.parametrize("key", list(_OTHER_AUGMENTATION))
def test_another_augmentation_is_refused_by_name(key: str) -> None:
    start = Start({}, {"identity": digits_identity(Config())})
    other = Config(augment=AugmentConfig(**{key: _OTHER_AUGMENTATION[key]}))
    with pytest.raises(RequestError, match=rf"the checkpoint's augment\.{key} is .*, this run's is "):
        stand(start, {}, Progress(MovingAverage(0.1)), digits_identity(other), World())


def test_an_identity_survives_its_file() -> None:
    everything = Config(augment=AugmentConfig(scale_jitter=(8, 9), randaugment=(2, 9)))
    written = json.loads(json.dumps(digits_identity(everything)))
    assert written == digits_identity(everything)


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
    stand(find(None, World()), arrays, progress, {}, World())
    assert arrays["parameter/a"].asnumpy().tolist() == [1.5, -2] and progress.step == 0
