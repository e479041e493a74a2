"""The data of a training: loaded once per host, planned by global steps, seen by the network and by evaluations."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from vggdist.collectives.shared_arrays import once_per_host
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.schema import Config
from vggdist.data.augment import EvaluationView, TrainingView
from vggdist.data.dataset import DataSet, load, per_channel
from vggdist.data.resize_crop import short_side
from vggdist.data.sampler import SamplePlan, make_plan
from vggdist.data.serialization import from_arrays, to_arrays
from vggdist.data.statistics import statistics, value_counts
from vggdist.models.spec import ModelSpec
from vggdist.training.pretrained import Pretrained

logger = logging.getLogger(__name__)


@dataclass
class Inputs:
    """What the steps of a training and its evaluations read.

    Attributes:
        plan: which samples each step takes.
        training_view: how the training set is seen.
        evaluation_views: what each evaluation measures, by the first part of its metrics' names.
        final_views: what is measured once, at the end.
        chosen_by: the part by whose metrics the best checkpoint is chosen.
    """

    data: DataSet
    plan: SamplePlan
    training_view: TrainingView
    evaluation_views: dict[str, EvaluationView]
    final_views: dict[str, EvaluationView]
    chosen_by: str


def load_data(config: Config, world: World, held: DataSet | None = None) -> DataSet:
    """The data set, in memory once per host; every rank must call this.

    Args:
        held: the data set, where this process has loaded it before.

    Raises:
        RequestError: on every rank, when it cannot be loaded.
        RunError: on every rank, when a rank's data differ from rank 0's.
    """
    data = once_per_host(world, lambda: load(config.data, config.run.seed), to_arrays, from_arrays, held)
    facts = {name: [len(part), part.class_names, data.identity.get(name)] for name, part in data.parts.items()}
    world.require_same("its data", "\n".join(f"{name} {fact}" for name, fact in facts.items()))
    if data.validation is None:
        logger.info(
            "no validation set (data.validation): the best checkpoint is chosen by the test set, which then flatters it"
        )
    return data


def model_spec(
    config: Config,
    data: DataSet,
    world: World,
    begun: ModelSpec | None = None,
    weights: Pretrained | None = None,
) -> ModelSpec:
    """What a training on this data set builds its network from; every rank must call this.

    Args:
        begun: of the checkpoint that the run continues from, which keeps the statistics of its beginning where they are not
            published ones of the data set.
        weights: with which the run begins; images are normalised as they were for these.

    Raises:
        RequestError: on every rank, when the images have no common size, or nothing to normalise by.
    """
    if begun is not None and (config.augment.normalize == "computed" or config.model.pretrained is not None):
        mean, std = begun.mean, begun.std
    elif weights is not None:
        mean, std = (per_channel(values, data.train.channels) for values in (weights.mean, weights.std))
    else:
        mean, std = _normalization(config, data, world)
    return world.together(lambda: _spec(config, data, mean, std))


def make_inputs(config: Config, data: DataSet, spec: ModelSpec, batch_size: int, world_size: int) -> Inputs:
    """Plan the samples.

    Args:
        batch_size: samples of a step over all ranks.

    Raises:
        RequestError: when the request does not fit the data or the ranks.
    """
    drop_last, parts = config.data.last_batch == "drop", config.train.accumulation
    plan = make_plan(len(data.train), batch_size, world_size, config.run.seed, drop_last, parts)
    fill = tuple(round(255 * value) for value in spec.mean)
    view = TrainingView(data.train, config.augment, spec.image_size, config.run.seed, fill)
    named = {"eval": data.test, "validation": data.validation, "eval_train": data.train}
    chosen_by = "eval" if data.validation is None else "validation"
    measured = [chosen_by, *(["eval_train"] if config.evaluation.training_set else [])]
    views = {
        name: EvaluationView(part, spec.resize, spec.image_size, config.evaluation.crops)
        for name, part in named.items()
        if part is not None
    }
    final = {"eval": views["eval"]} if chosen_by != "eval" else {}
    return Inputs(data, plan, view, {name: views[name] for name in measured}, final, chosen_by)


def _spec(config: Config, data: DataSet, mean: tuple[float, ...], std: tuple[float, ...]) -> ModelSpec:
    image_size = _image_size(config, data)
    spec = ModelSpec(
        architecture=replace(config.model, pretrained=None),  # of no use to who has the checkpoint
        class_names=data.train.class_names,
        channels=data.train.channels,  # type: ignore[arg-type]
        image_size=image_size,
        resize=short_side(config.augment, image_size),
        mean=mean,
        std=std,
    )
    spec.layers()  # an image that is too small is refused
    return spec


def _image_size(config: Config, data: DataSet) -> int:
    """The side of the images that the network sees."""
    if config.data.image_size is not None:
        return config.data.image_size
    shape = data.train.image_shape
    if shape is None or shape[0] != shape[1]:
        raise RequestError("the images are not squares of one size; set data.image_size")
    return shape[0]


def _normalization(config: Config, data: DataSet, world: World) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; where they are computed, each rank counts its part of the images."""
    if config.augment.normalize == "published":
        return data.mean, data.std
    if config.augment.normalize == "computed":
        counts = world.sum(world.together(lambda: value_counts(data.train, world.rank, world.size)))
        return world.together(lambda: statistics(counts))
    return (0.0,) * data.train.channels, (1.0,) * data.train.channels
