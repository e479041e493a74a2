"""Export of a trained network for another runtime, published only after a comparison with the original."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

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
    """Suffix of the default file name."""

    def paths(self, output: Path) -> list[Path]:
        """The files of an export; the export exists when the last one does."""

    def write(self, trained: Trained, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
        """Write the network to files in the order of :meth:`paths`."""

    def load(self, files: Sequence[Path]) -> Network:
        """Load the network from these files."""


def format_of(name: str) -> Format:
    """The format ``onnx`` or ``symbol``; ``RequestError`` if a package that it needs is missing."""
    if name == "symbol":
        from vggdist.inference import symbol_file

        return symbol_file
    from vggdist.inference import onnx_file

    return onnx_file


def export(trained: Trained, form: Format, output: Path, images: Iterable[NDArray[np.uint8]]) -> tuple[Comparison, list[Path]]:
    """Write a network to temporary files, compare it with the original on images, and rename the files if it is equal.

    Args:
        output: the file, or the prefix of several files' names.
        images: batches of ``(N, S, S, C) uint8``.

    Returns:
        The comparison and the files.

    Raises:
        RequestError: the checkpoint, an image or ``output`` is invalid.
        RunError: the exported network computes something else, or cannot be written. Existing files are not changed.
    """
    paths = form.paths(output)
    if other := next((path for path in paths if path.exists() and not path.is_file()), None):
        kind = "a folder" if other.is_dir() else "not a regular file"
        raise RequestError(f"{other} is {kind}; name a file with --output")
    model = trained.model(mx.cpu())
    aside = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        form.write(trained, aside, metadata(trained))
        comparison = compare(lambda batch: probabilities(model, batch), form.load(aside), images)
        if not comparison.equal:
            raise RunError(f"the exported network computes something else and was removed: {comparison}")
        _publish(aside, paths)
    except OSError as error:
        raise RunError(f"{error.filename or output} cannot be written: {error.strerror}") from error
    finally:
        for path in aside:
            with suppress(OSError):  # it was not written
                path.unlink()
    return comparison, paths


def metadata(trained: Trained) -> dict[str, str]:
    """Metadata for callers of the graph, as text; class names are a JSON array in the order of the probabilities."""
    spec = trained.spec
    steps = f"scale the short side to {spec.resize} pixels (bilinear, antialiased), crop the central {spec.image_size} x "
    return {
        "class_names": json.dumps(spec.class_names),
        "image_size": str(spec.image_size),
        "resize": str(spec.resize),
        "channels": str(spec.channels),
        "preprocessing": f"{steps}{spec.image_size}, pass bytes of {'RGB' if spec.channels == 3 else 'grey'}",
        "checkpoint_step": str(trained.step),
        "checkpoint_sha256": trained.sha256,
    }


def batches(spec: ModelSpec, names: Sequence[str], reading: ReadingConfig) -> Iterator[NDArray[np.uint8]]:
    """The named images as input of the network, or generated ones if there are no names.

    Raises:
        RequestError: one cannot be read.
    """
    if not names:
        yield samples(spec)
    batch: list[NDArray[np.uint8]] = []
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
    """Rename the files, the last one last: when it exists, all files are from the same export."""
    for path in aside:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if len(paths) > 1:
        paths[-1].unlink(missing_ok=True)
    for path, final in zip(aside, paths):
        path.replace(final)
