"""Convert images to record files and back, or check them: ``python -m vggdist.prepare images/ records/ --short-side 480``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from vggdist.config.errors import RequestError, VggdistError
from vggdist.config.text import printable
from vggdist.data.folder import TEST_FOLDERS
from vggdist.data.record_dataset import CLASSES
from vggdist.data.sanity_checks import Findings, part_line
from vggdist.preparation.conversion import Outcome, Part, Transform, fingerprint, write_folder
from vggdist.preparation.output_folder import OutputFolder
from vggdist.preparation.record_writer import publish_records, write_records
from vggdist.preparation.sources import check, check_classes, listed_parts
from vggdist.processes import streams

_REPORT = "prepare.json"

_EPILOG = """\
SOURCE is a folder with train/<class>/ and test/<class>/ (or val/), a folder with <class>/, a list file, or a folder with
record files. A line of a list file is path, tab, class (paths relative to the file), or MXNet's key, tab, label, tab, path.
TARGET gets train.rec, train.idx, test.rec, test.idx and classes.txt, or with --to folder train/<class>/ and test/<class>/.
An interrupted command resumes when it is run again; only complete files get their final names.
TARGET/prepare.json lists the number of written images, and each image that was left out with the reason. Files in TARGET that
this command did not write are neither replaced nor removed; unfinished files are in TARGET/.prepare.

Exit codes: 0 done, or nothing is damaged; 1 --check found damage, or the conversion failed; 2 the request is wrong."""


def parser() -> argparse.ArgumentParser:
    """The command-line parser."""
    made = argparse.ArgumentParser(
        prog="python -m vggdist.prepare",
        description="Convert images to record files for fast training, or record files to images; or check either.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("source", type=Path, nargs="?", help="input images: folder or list file")
    made.add_argument("target", type=Path, nargs="?", help="output folder; created if missing")
    made.add_argument("--check", type=Path, metavar="PATH", help="verify a .rec file or a folder by decoding every image")
    made.add_argument("--to", choices=("records", "folder"), default="records", help="output format (default records)")
    made.add_argument(
        "--short-side",
        type=_positive,
        metavar="PIXELS",
        help="scale larger images down to this short side (default: keep the original bytes)",
    )
    made.add_argument(
        "--quality", type=_positive, metavar="1-100", help="encode as JPEG of this quality (default 95 with --short-side)"
    )
    made.add_argument("--damaged", choices=("skip", "stop"), default="skip", help="action for damaged images (default skip)")
    cores = len(os.sched_getaffinity(0))
    made.add_argument(
        "--threads", type=_positive, default=cores, help=f"worker threads (default {cores}, the available cores)"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    streams.protect()
    command_line = parser()
    args = command_line.parse_args(arguments)
    if args.check is None and (args.source is None or args.target is None):
        command_line.error("SOURCE and TARGET are required, or --check PATH")
    if args.check is not None and args.source is not None:
        command_line.error("--check takes one path and excludes SOURCE and TARGET")
    if args.quality is not None and args.quality > 100:
        command_line.error(f"--quality is {args.quality}; expected 1 to 100")
    try:
        return _check(args) if args.check is not None else _prepare(args)
    except VggdistError as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # Errors while writing have no file name; all files are written below TARGET.
        place = printable(error.filename or args.target)
        print(f"vggdist: {place}: {error.strerror}; run the same command again to resume", file=sys.stderr)
        return 1


def _prepare(args: argparse.Namespace) -> int:
    quality = args.quality or (95 if args.short_side else None)
    transform = Transform(args.short_side, quality)
    class_names, parts = listed_parts(args.source, args.damaged)
    _warn(check_classes(class_names, parts))
    target, to_records = OutputFolder(args.target), args.to == "records"
    outcomes: dict[str, Outcome] = {}
    with target.locked():
        _require_free(target, [part.name for part in parts], to_records)
        requests = {part.name: fingerprint(part, class_names, transform) for part in parts}
        for part in parts:
            print(f"{part.name}: {part_line(part.labels, class_names, part.origin)}", file=sys.stderr)
            with tqdm(total=len(part.store), desc=part.name, unit="image", dynamic_ncols=True) as bar:
                work = requests[part.name], transform, args.threads, args.damaged, bar.update
                made = write_records(part, target, *work) if to_records else write_folder(part, class_names, target, *work)
            outcomes[part.name] = made
        if to_records:
            target.write(CLASSES, "".join(f"{name}\n" for name in class_names).encode())
            for part in parts:
                publish_records(part, target, requests[part.name], outcomes[part.name])
        _report(args, target, quality, len(class_names), parts, outcomes)
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome.written} images, {len(outcome.left_out)} left out; see {printable(args.target / _REPORT)}")
    return 0


def _require_free(target: OutputFolder, parts: Sequence[str], to_records: bool) -> None:
    """Raise ``RequestError`` before the conversion if it would replace files of others or mix parts of several requests."""
    files = [f"{part}.{kind}" for part in parts for kind in ("rec", "idx")]
    target.require_own([_REPORT, *([CLASSES, *files] if to_records else [])])
    if to_records:
        others = [path for path in sorted(target.folder.glob("*.rec")) if path.name not in files]
    else:
        others = [path for path in sorted(target.folder.iterdir()) if path.name in TEST_FOLDERS and path.name not in parts]
    if others:
        raise RequestError(
            f"{others[0]} is of another request and would be part of the data set; remove it, or specify another TARGET"
        )


def _report(
    args: argparse.Namespace,
    target: OutputFolder,
    quality: int | None,
    num_classes: int,
    parts: Sequence[Part],
    outcomes: Mapping[str, Outcome],
) -> None:
    """Write the report; adds to each outcome the images that could not be listed."""
    for part in parts:
        outcomes[part.name].left_out[:0] = [{"image": name, "reason": reason} for name, reason in part.left_out.items()]
    report = {
        "source": printable(args.source),
        "short_side": args.short_side,
        "quality": quality,
        "classes": num_classes,
        "parts": {name: outcome.as_report() for name, outcome in outcomes.items()},
    }
    target.write(_REPORT, (json.dumps(report, indent=2) + "\n").encode())


def _check(args: argparse.Namespace) -> int:
    with tqdm(unit="image", dynamic_ncols=True) as bar:
        result = check(args.check, args.threads, bar.update)
    for line in (*result.lines, *result.damage, *(f"warning: {warning}" for warning in result.warnings)):
        print(line)
    print(f"{printable(args.check)}: {result.total} images, {len(result.damage)} damaged")
    return 1 if result.damage else 0


def _warn(findings: Findings) -> None:
    for warning in (*([findings.problem] if findings.problem is not None else []), *findings.warnings):
        print(f"vggdist: {warning}", file=sys.stderr)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
