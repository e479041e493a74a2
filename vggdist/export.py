"""Write a trained network for other runtimes: ``python -m vggdist.export runs/quickstart --format onnx``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import before_start
from vggdist.config.inference import ExportConfig, add_run, place, require_one_process, settings
from vggdist.config.text import printable
from vggdist.environment import variables
from vggdist.exit_handling import ExitHandler

_DESCRIPTION = (
    "Writes a network from bytes, (batch, image_size, image_size, channels) uint8, to probabilities: as one ONNX file, or as "
    "a symbol and its parameters, which MXNet reads without this package. The export is compared with the network before its "
    "files are renamed to their final names."
)
_EPILOG = (
    "Exit codes: 0 written, 1 not written: it computes something else (by more than 1e-4, or another top-1) or the disk "
    "failed, 2 the request is wrong."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, and return the exit code."""
    handler = ExitHandler()
    return handler.run(lambda: export(sys.argv[1:] if arguments is None else arguments, handler.size))


def export(arguments: Sequence[str], processes: int) -> dict[str, Any]:
    """Export with the given arguments."""
    with before_start():
        require_one_process("export", processes)
        options = _parser().parse(arguments)
        where = place(options.run, options.checkpoint)
        config = settings(where, options.settings, ExportConfig)
        variables.apply(config)  # before anything imports MXNet
    from vggdist.checkpoints import trained
    from vggdist.inference import exporting

    form = exporting.format_of(options.format)
    network = trained.read(where)
    name = f"step-{network.step:08d}{form.SUFFIX}"
    output = Path(options.output) if options.output else (where.run or Path()) / "export" / name
    images = exporting.batches(network.spec, options.images, config.data)
    comparison, paths = exporting.export(network, form, output, images)
    print(f"compared with the network: {comparison}", f"written: {', '.join(map(printable, paths))}", sep="\n", flush=True)
    return {}


def _parser() -> SettingsParser:
    parser = SettingsParser("export", ExportConfig, "RUN", takes_file=False, description=_DESCRIPTION, epilog=_EPILOG)
    add_run(parser)
    parser.add_argument("--format", choices=("onnx", "symbol"), required=True, help="what to write")
    parser.add_argument(
        "--output",
        metavar="PATH",
        help="the .onnx file, or the prefix of -symbol.json and -0000.params (default: RUN/export/step-XXXXXXXX)",
    )
    parser.add_argument(
        "--images",
        metavar="PATH",
        nargs="+",
        default=(),
        help="files, folders or patterns of images to compare on (default: generated noise and smooth pictures)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
