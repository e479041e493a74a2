"""Predict the classes of images: ``python -m vggdist.predict runs/quickstart photographs/``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import RequestError, RunError, VggdistError, before_start
from vggdist.config.inference import InferenceConfig, add_run, place, require_one_process, settings
from vggdist.data.decode import DamagedImageError
from vggdist.data.image_names import files, read_names
from vggdist.environment import variables
from vggdist.exit_handling import ExitHandler
from vggdist.processes import streams
from vggdist.reporting.predictions import Lines

_DESCRIPTION = (
    "Prints the most probable classes of each image, in the order of the names. A PATH is a file, a folder (all .jpg, .jpeg "
    "and .png files in it, at any depth), a pattern such as '**/*.png', or - for names on standard input, one a line."
)
_EPILOG = (
    "Lines are printed after each evaluation.batch_size images. An image that cannot be read is reported on standard error "
    "and skipped. Exit codes: 0 all images were predicted, 1 some were not, 2 the request is wrong."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, and return the exit code."""
    handler = ExitHandler()
    return handler.run(lambda: predict(sys.argv[1:] if arguments is None else arguments, handler.size))


def predict(arguments: Sequence[str], processes: int) -> dict[str, Any]:
    """Predict with the given arguments."""
    with before_start():
        require_one_process("predict", processes)
        options = _parser().parse(arguments)
        where = place(options.run, options.checkpoint)
        config = settings(where, options.settings, InferenceConfig)
        variables.apply(config)  # before anything imports MXNet
    from vggdist.checkpoints import trained
    from vggdist.collectives.world import World, choose_device, choose_precision
    from vggdist.inference import prediction

    network = trained.read(where)
    device = choose_device(config.run.device, 0)
    model = network.model(device, choose_precision(config.train.precision, device, World()))
    lines, output = Lines(options.format, network.spec.class_names, options.top), streams.results()
    predicted, failures = 0, _Failures()
    started = time.monotonic()
    try:
        _write(output, lines.header)
        for batch in prediction.predictions(model, _files(options), config.evaluation, config.data, failures.report):
            _write(output, "".join(lines.of(*one) for one in batch))
            predicted += len(batch)
    except BrokenPipeError:  # the reader has closed the pipe
        return {}
    seconds = time.monotonic() - started
    print(f"{predicted} images in {seconds:.1f} s: {predicted / seconds:.1f} images/s", file=sys.stderr)
    if failures.number:
        raise RunError(f"{failures.number} of {predicted + failures.number} images were not predicted")
    return {}


class _Failures:
    """Images without a prediction: reported at once, and counted."""

    number = 0

    def report(self, error: VggdistError) -> None:
        self.number += 1
        print(f"vggdist: {error.fault if isinstance(error, DamagedImageError) else error}", file=sys.stderr)


def _files(options: argparse.Namespace) -> Iterator[Path | RequestError]:
    parts = []
    for name in options.paths:
        if name == "-":
            # Descriptor 0 and not sys.stdin, which is None where it was closed.
            names = read_names(open(0, "rb", closefd=False), b"\0" if options.null else b"\n")
            parts.append(files(names, patterns=False))
        else:
            parts.append(files([name]))
    return chain.from_iterable(parts)


def _write(output: TextIO, text: str) -> None:
    try:
        output.write(text)
        output.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise RunError(f"standard output cannot be written: {error.strerror}") from error


def _parser() -> SettingsParser:
    parser = SettingsParser(
        "predict", InferenceConfig, "RUN PATH ...", takes_file=False, description=_DESCRIPTION, epilog=_EPILOG
    )
    add_run(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="file, folder, pattern, or - for names on standard input")
    parser.add_argument("-0", "--null", action="store_true", help="names on standard input end with NUL, as of find -print0")
    parser.add_argument("--top", type=_positive, default=3, metavar="K", help="classes of each image (default: 3)")
    parser.add_argument(
        "--format",
        choices=("table", "json", "csv"),
        default="table",
        help="table: aligned text; json: an object on each line; csv: with a header (default: table)",
    )
    return parser


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
