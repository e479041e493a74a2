"""The data of a training: loaded once per host, split into global steps, with views for training and evaluation."""

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
    """Input of the steps and the evaluations of a training.

    Attributes:
        plan: the samples of each step.
        training_view: augmented batches of the training set.
        evaluation_views: measured at each evaluation, by part of the data set (the prefix of the metrics' names).
        final_views: measured once, at the end.
        selection_part: the part whose metrics select the best checkpoint.
    """

    data: DataSet
    plan: SamplePlan
    training_view: TrainingView
    evaluation_views: dict[str, EvaluationView]
    final_views: dict[str, EvaluationView]
    selection_part: str


def load_data(config: Config, world: World, loaded: DataSet | None = None) -> DataSet:
    """The data set, in memory once per host; every rank must call this.

    Args:
        loaded: the data set, if this process has loaded it before.

    Raises:
        RequestError: on every rank, when it cannot be loaded.
        RunError: on every rank, when a rank's data differ from those of rank 0.
    """
    data = once_per_host(world, lambda: load(config.data, config.run.seed), to_arrays, from_arrays, loaded)
    facts = {name: [len(part), part.class_names, data.identity.get(name)] for name, part in data.parts.items()}
    world.require_same("its data", "\n".join(f"{name} {fact}" for name, fact in facts.items()))
    if data.validation is None:
        logger.info(
            "no validation set (data.validation): the test set selects the best checkpoint, so its metrics are too optimistic"
        )
    return data


def model_spec(
    config: Config,
    data: DataSet,
    world: World,
    resumed: ModelSpec | None = None,
    weights: Pretrained | None = None,
) -> ModelSpec:
    """The description of the network for a training on this data set; every rank must call this.

    Args:
        resumed: the spec of the checkpoint that the run continues from; its statistics are kept unless they are the data
            set's published ones.
        weights: pretrained weights that the run begins with; images are normalised as for these.

    Raises:
        RequestError: on every rank, when the images have no common size, or nothing to normalise by.
    """
    if resumed is not None and (config.augment.normalize == "computed" or config.model.pretrained is not None):
        mean, std = resumed.mean, resumed.std
    elif weights is not None:
        mean, std = (per_channel(values, data.train.channels) for values in (weights.mean, weights.std))
    else:
        mean, std = _normalization(config, data, world)
    return world.together(lambda: _spec(config, data, mean, std))


def make_inputs(config: Config, data: DataSet, spec: ModelSpec, batch_size: int, world_size: int) -> Inputs:
    """Plan the steps and make the views.

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
    selection_part = "eval" if data.validation is None else "validation"
    measured = [selection_part, *(["eval_train"] if config.evaluation.training_set else [])]
    measuring = config.evaluation
    views = {
        name: EvaluationView(part, spec.resize, spec.image_size, measuring.crops, measuring.views)
        for name, part in named.items()
        if part is not None
    }
    final = {"eval": views["eval"]} if selection_part != "eval" else {}
    return Inputs(data, plan, view, {name: views[name] for name in measured}, final, selection_part)


def _spec(config: Config, data: DataSet, mean: tuple[float, ...], std: tuple[float, ...]) -> ModelSpec:
    image_size = _image_size(config, data)
    spec = ModelSpec(
        architecture=replace(config.model, pretrained=None),  # the checkpoint has the weights
        class_names=data.train.class_names,
        channels=data.train.channels,  # type: ignore[arg-type]
        image_size=image_size,
        resize=short_side(config.augment, image_size),
        mean=mean,
        std=std,
    )
    sides = (side for _, side in config.augment.progressive if side < image_size)  # TrainingView refuses larger ones
    for side in (image_size, *sides):
        replace(spec, image_size=side).layers()  # raises RequestError if the image is too small
    return spec


def _image_size(config: Config, data: DataSet) -> int:
    """Side of the network's input images."""
    if config.data.image_size is not None:
        return config.data.image_size
    shape = data.train.image_shape
    if shape is None or shape[0] != shape[1]:
        raise RequestError("the images are not squares of one size; set data.image_size")
    return shape[0]


def _normalization(config: Config, data: DataSet, world: World) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel; if they are computed, each rank counts its part of the images."""
    if config.augment.normalize == "published":
        return data.mean, data.std
    if config.augment.normalize == "computed":
        counts = world.sum(world.together(lambda: value_counts(data.train, world.rank, world.size)))
        return world.together(lambda: statistics(counts))
    std = 1 / 255 if config.augment.normalize == "raw" else 1.0  # on a scale from 0 to 1
    return (0.0,) * data.train.channels, (std,) * data.train.channels
