"""Evaluation of a trained network on images with known classes: metrics, per class and per image."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vggdist.checkpoints.trained import Trained, on_all_ranks
from vggdist.collectives.world import World, choose_device, choose_precision
from vggdist.config.images import DataConfig, ReadingConfig
from vggdist.config.inference import EvaluateConfig, Place
from vggdist.data.arrays import Source
from vggdist.data.augment import EvaluationView
from vggdist.data.dataset import load_part
from vggdist.models.model import Model
from vggdist.reporting.metric_names import named
from vggdist.training.evaluation import scored_batches
from vggdist.training.metrics import EvaluationSums
from vggdist.watchdog.watchdog import Watchdog


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images, in the order of the data set.

    Attributes:
        predicted: ``(N,) int32`` class with the highest score.
        probability: ``(N,) float32`` of that class.
        probability_of_true: ``(N,) float32`` of the true class.
    """

    predicted: NDArray[np.int32]
    probability: NDArray[np.float32]
    probability_of_true: NDArray[np.float32]

    def worst_first(self) -> NDArray[np.intp]:
        """Indices of the images by ascending probability of the true class, ties in order."""
        return np.argsort(np.where(np.isnan(self.probability_of_true), -1, self.probability_of_true), kind="stable")


@dataclass(frozen=True)
class Evaluation:
    """Results of an evaluation.

    Attributes:
        result: content of ``evaluation.json``.
        source: the images.
    """

    result: dict[str, Any]
    source: Source
    predictions: Predictions


def evaluate(config: EvaluateConfig, where: Place, other_images: bool, world: World, watch: Watchdog) -> Evaluation:
    """Evaluate a checkpoint; every rank must call this and gets the same result.

    Args:
        other_images: the images are not those of the run: if the folder has no parts, all its images are used.

    Raises:
        RequestError: on every rank, when checkpoint, device or images are invalid.
    """
    data = config.data
    trained = on_all_ranks(world, where)
    spec = trained.spec
    source = _load(config, trained, other_images, world)
    device = world.together(lambda: choose_device(config.run.device, world.local_rank))
    precision = choose_precision(config.train.precision, device, world)
    model = world.together(lambda: trained.model(device, precision))
    crops, views = config.evaluation.crops, config.evaluation.views
    view = world.together(lambda: EvaluationView(source, spec.resize, spec.image_size, crops, views))
    sums, predictions = measure(model, view, world, config.evaluation.batch_size, data, watch.beat)
    watch.pause()
    result = {
        "checkpoint": {"path": trained.path, "step": trained.step, "sha256": trained.sha256},
        "data": {"name": data.name, "root": data.root, "part": data.part, "left_out": source.left_out},
        "images": len(source),
        "metrics": named(data.part, sums.result()),
        "classes": per_class(sums.confusion(), spec.class_names),
        "confusion": sums.confusion().tolist(),
        "world_size": world.size,
    }
    return Evaluation(result, source, predictions)


def _load(config: EvaluateConfig, trained: Trained, other_images: bool, world: World) -> Source:
    spec, part = trained.spec, config.data.part
    fields = {name: value for name, value in dataclasses.asdict(config.data).items() if name != "part"}
    data = DataConfig(**fields, image_size=spec.image_size, channels=spec.channels)

    def load() -> Source:
        return load_part(data, trained.seed, part, spec.class_names, other_images)

    first = world.together(load, acts=world.local_rank == 0)  # downloads what is missing
    others = world.together(load, acts=world.local_rank != 0)
    return first or others


def measure(
    model: Model,
    view: EvaluationView,
    world: World,
    images_at_once: int,
    reading: ReadingConfig,
    beat: Callable[[str], None] = lambda phase: None,
) -> tuple[EvaluationSums, Predictions]:
    """Score every image once, over all ranks; the result is the same on every rank and for any number of ranks.

    Args:
        images_at_once: batch size of a rank; each crop and view counts.
        beat: the watchdog's heartbeat, called at each batch.
    """
    sums, columns = EvaluationSums(len(model.spec.class_names)), []
    for scored in scored_batches(model, view, world, images_at_once, reading):
        beat("evaluation")
        if scored is None:
            continue
        batch, scores = scored
        sums.add(scores, batch.labels, batch.mask)
        counts = batch.mask > 0
        probabilities = softmax(scores[counts].astype(np.float64), axis=1)
        labels, rows = batch.labels[counts], np.arange(np.count_nonzero(counts))
        predicted = probabilities.argmax(axis=1)
        columns.append((batch.samples[counts], predicted, probabilities[rows, predicted], probabilities[rows, labels]))
    total = EvaluationSums.from_array(sums.num_classes, world.sum(sums.as_array()))
    return total, _in_order(columns, len(view), world)


def _in_order(batches: Sequence[tuple[NDArray[Any], ...]], samples: int, world: World) -> Predictions:
    """All ranks' predictions by index of the image: each comes from one rank, and the others add 0 to it."""
    columns = np.zeros(samples, np.int32), np.zeros(samples, np.float32), np.zeros(samples, np.float32)
    for places, *values in batches:
        for column, one in zip(columns, values, strict=True):
            column[places] = one
    return Predictions(*map(world.sum, columns))


def per_class(confusion: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Per class the number of images, recall and precision in percent; nan if there are none.

    Args:
        confusion: ``(K, K)``, a row for each true class.
    """
    right, images, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(invalid="ignore"):
        recall, precision = 100 * right / images, 100 * right / predicted
    return {
        name: {"images": int(images[k]), "accuracy(%)": float(recall[k]), "precision(%)": float(precision[k])}
        for k, name in enumerate(class_names)
    }


def as_csv(source: Source, predictions: Predictions) -> str:
    """A line for each image, worst first: its name, true class, predicted class, and the probabilities of both."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "true", "predicted", "probability", "probability_of_true"))
    for index in predictions.worst_first().tolist():
        names = (source.class_names[label] for label in (source.labels[index], predictions.predicted[index]))
        values = (predictions.probability[index], predictions.probability_of_true[index])
        writer.writerow((source.name(index), *names, *(f"{value:.6g}" for value in values)))
    return text.getvalue()


def table(result: Mapping[str, Any]) -> str:
    """The result as text."""
    classes = result["classes"]
    width = max(map(len, classes))
    lines = [f"{'class':{width}}  {'images':>7}  {'accuracy(%)':>11}  {'precision(%)':>12}"]
    lines += [
        f"{name:{width}}  {one['images']:7}  {one['accuracy(%)']:11.2f}  {one['precision(%)']:12.2f}"
        for name, one in classes.items()
    ]
    return "\n".join([*lines, *(f"{name} {value:.6g}" for name, value in result["metrics"].items())])
