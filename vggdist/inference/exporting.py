"""A trained network written for another runtime: compared with the network first, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import mxnet as mx
import numpy as np

from vggdist.checkpoints.trained import Trained
from vggdist.config.errors import RequestError, RunError
from vggdist.config.images import ReadingConfig
from vggdist.data.decode import DamagedImageError
from vggdist.data.image_names import files
from vggdist.inference.comparison import Comparison, Network, compare, samples
from vggdist.inference.prediction import framed, probabilities
from vggdist.models.spec import ModelSpec

_AT_ONCE = 32  # images of a comparison


class Format(Protocol):
    """A module that writes and reads a format."""

    SUFFIX: str
    """What a file's name ends with, where it does not follow from the format itself."""

    def paths(self, output: Path) -> list[Path]:
        """The files of an export; without the last one the others are nothing."""

    def write(self, found: Trained, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
        """Write them under other names, in that order."""

    def load(self, files: Sequence[Path]) -> Network:
        """Read them again."""


def format_of(name: str) -> Format:
    """The format ``onnx`` or ``symbol``; ``RequestError`` where the packages that it needs are missing."""
    if name == "symbol":
        from vggdist.inference import symbol_file

        return symbol_file
    from vggdist.inference import onnx_file

    return onnx_file


def export(found: Trained, form: Format, output: Path, images: Iterable[np.ndarray]) -> tuple[Comparison, list[Path]]:
    """Write a network, run what was written on images, and give it its name where it computes the same.

    Args:
        output: the file, or what the names of several begin with.
        images: batches of ``(N, S, S, C) uint8``.

    Returns:
        What the comparison found, and the files.

    Raises:
        RequestError: the checkpoint, an image or ``output`` is not as it should be.
        RunError: what was written computes something else, or it cannot be written. Files from before stay as they were.
    """
    paths = form.paths(output)
    if taken := next((path for path in paths if path.is_dir()), None):
        raise RequestError(f"{taken} is a folder; name a file with --output")
    model = found.model(mx.cpu())
    aside = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        form.write(found, aside, metadata(found))
        comparison = compare(lambda batch: probabilities(model, batch), form.load(aside), images)
        if not comparison.equal:
            raise RunError(f"what was exported computes something else and is removed: {comparison}")
        _publish(aside, paths)
    except OSError as error:
        raise RunError(f"{error.filename or output} cannot be written: {error.strerror}") from error
    finally:
        for path in aside:
            with suppress(OSError):  # it was not written
                path.unlink()
    return comparison, paths


def metadata(found: Trained) -> dict[str, str]:
    """What a caller must know beside the graph, as text; class names are a JSON array in the order of the probabilities."""
    spec = found.spec
    seen = f"scale the short side to {spec.resize} pixels (bilinear, antialiased), crop the central {spec.image_size} x "
    return {
        "class_names": json.dumps(spec.class_names),
        "image_size": str(spec.image_size),
        "resize": str(spec.resize),
        "channels": str(spec.channels),
        "preprocessing": f"{seen}{spec.image_size}, pass bytes of {'RGB' if spec.channels == 3 else 'grey'}",
        "checkpoint_step": str(found.step),
        "checkpoint_sha256": found.sha256,
    }


def batches(spec: ModelSpec, names: Sequence[str], reading: ReadingConfig) -> Iterator[np.ndarray]:
    """The images that a person names, as the network sees them, or without any some that are made here.

    Raises:
        RequestError: one cannot be read.
    """
    if not names:
        yield samples(spec)
    batch: list[np.ndarray] = []
    for _, pixels in framed(spec, files(names), reading):
        if isinstance(pixels, RequestError):
            raise RequestError(pixels.fault) if isinstance(pixels, DamagedImageError) else pixels
        batch.append(pixels)
        if len(batch) == _AT_ONCE:
            yield np.concatenate(batch)
            batch = []
    if batch:
        yield np.concatenate(batch)


def _publish(aside: Sequence[Path], paths: Sequence[Path]) -> None:
    """Give files their names: whoever finds the last one finds all of them as they belong together."""
    for path in aside:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if len(paths) > 1:
        paths[-1].unlink(missing_ok=True)
    for path, final in zip(aside, paths):
        path.replace(final)
