"""Images into record files and back, or check either: ``python -m vggdist.prepare photographs/ records/ --short-side 480``."""

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
from vggdist.preparation.conversion import Change, Outcome, Part, fingerprint, write_folder
from vggdist.preparation.output_folder import OutputFolder
from vggdist.preparation.record_writer import publish_records, write_records
from vggdist.preparation.sources import check, judged, listed_parts
from vggdist.processes import streams

_REPORT = "prepare.json"

_EPILOG = """\
SOURCE is a folder with train/<class>/ and test/<class>/ (or val/), a folder of <class>/, a list file, or a folder of record
files. A line of a list file is path, tab, class (paths relative to the file), or MXNet's key, tab, label, tab, path.
TARGET receives train.rec, train.idx, test.rec, test.idx and classes.txt, or with --to folder train/<class>/ and test/<class>/.
The same command again goes on where it was interrupted; nothing half-written stands under a final name.
TARGET/prepare.json reports what was written, and what was left out and why. What is in TARGET and was not written by this
command is neither replaced nor removed; its unfinished work is in TARGET/.prepare.

Exit codes: 0 done, or nothing is damaged; 1 --check found damage, or the work failed; 2 the request is wrong."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m vggdist.prepare",
        description="Put images into record files for fast training, or take them out again; or check either.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("source", type=Path, nargs="?", help="where the images are")
    made.add_argument("target", type=Path, nargs="?", help="folder to write to; made when absent")
    made.add_argument("--check", type=Path, metavar="PATH", help="verify a .rec file or a folder: every image is decoded")
    made.add_argument("--to", choices=("records", "folder"), default="records", help="what to write (default records)")
    made.add_argument(
        "--short-side",
        type=_positive,
        metavar="PIXELS",
        help="scale larger images down to this short side (default: the bytes are passed through)",
    )
    made.add_argument(
        "--quality", type=_positive, metavar="1-100", help="encode as JPEG of this quality (default 95 with --short-side)"
    )
    made.add_argument("--damaged", choices=("skip", "stop"), default="skip", help="what a damaged image does (default skip)")
    cores = len(os.sched_getaffinity(0))
    made.add_argument("--threads", type=_positive, default=cores, help=f"images at once (default {cores}, the cores here)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the work and return the exit code."""
    streams.protect()
    reader = parser()
    asked = reader.parse_args(arguments)
    if asked.check is None and (asked.source is None or asked.target is None):
        reader.error("SOURCE and TARGET are needed, or --check PATH")
    if asked.check is not None and asked.source is not None:
        reader.error("--check takes one path, and no SOURCE or TARGET")
    if asked.quality is not None and asked.quality > 100:
        reader.error(f"--quality is {asked.quality}; expected 1 to 100")
    try:
        return _check(asked) if asked.check is not None else _prepare(asked)
    except VggdistError as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # An error of writing names no file; all files that are written are below TARGET.
        place = printable(error.filename or asked.target)
        print(f"vggdist: {place}: {error.strerror}; what is written stays, start the same command again", file=sys.stderr)
        return 1


def _prepare(asked: argparse.Namespace) -> int:
    quality = asked.quality or (95 if asked.short_side else None)
    change = Change(asked.short_side, quality)
    class_names, parts = listed_parts(asked.source, asked.damaged)
    _warn(judged(class_names, parts))
    target, to_records = OutputFolder(asked.target), asked.to == "records"
    outcomes: dict[str, Outcome] = {}
    with target.held():
        _require_room(target, [part.name for part in parts], to_records)
        requests = {part.name: fingerprint(part, class_names, change) for part in parts}
        for part in parts:
            print(f"{part.name}: {part_line(part.labels, class_names, part.origin)}", file=sys.stderr)
            with tqdm(total=len(part.store), desc=part.name, unit="image", dynamic_ncols=True) as bar:
                work = requests[part.name], change, asked.threads, asked.damaged, bar.update
                made = write_records(part, target, *work) if to_records else write_folder(part, class_names, target, *work)
            outcomes[part.name] = made
        if to_records:
            target.write(CLASSES, "".join(f"{name}\n" for name in class_names).encode())
            for part in parts:
                publish_records(part, target, requests[part.name], outcomes[part.name])
        _report(asked, target, quality, len(class_names), parts, outcomes)
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome.written} images, {len(outcome.left_out)} left out; see {printable(asked.target / _REPORT)}")
    return 0


def _require_room(target: OutputFolder, parts: Sequence[str], to_records: bool) -> None:
    """Refuse, before hours of work, to replace what is not ours, and to mix these parts with those of another request."""
    files = [f"{part}.{kind}" for part in parts for kind in ("rec", "idx")]
    target.require_own([_REPORT, *([CLASSES, *files] if to_records else [])])
    if to_records:
        others = [path for path in sorted(target.folder.glob("*.rec")) if path.name not in files]
    else:
        others = [path for path in sorted(target.folder.iterdir()) if path.name in TEST_FOLDERS and path.name not in parts]
    if others:
        raise RequestError(f"{others[0]} is not of this request and would be read with it; remove it, or give another TARGET")


def _report(
    asked: argparse.Namespace,
    target: OutputFolder,
    quality: int | None,
    num_classes: int,
    parts: Sequence[Part],
    outcomes: Mapping[str, Outcome],
) -> None:
    """Write what became of the images; adds to each outcome what could not even be listed."""
    for part in parts:
        outcomes[part.name].left_out[:0] = [{"image": name, "reason": reason} for name, reason in part.left_out.items()]
    report = {
        "source": printable(asked.source),
        "short_side": asked.short_side,
        "quality": quality,
        "classes": num_classes,
        "parts": {name: outcome.as_report() for name, outcome in outcomes.items()},
    }
    target.write(_REPORT, (json.dumps(report, indent=2) + "\n").encode())


def _check(asked: argparse.Namespace) -> int:
    with tqdm(unit="image", dynamic_ncols=True) as bar:
        found = check(asked.check, asked.threads, bar.update)
    for line in (*found.lines, *found.damage, *(f"note: {remark}" for remark in found.remarks)):
        print(line)
    print(f"{printable(asked.check)}: {found.total} images, {len(found.damage)} damaged")
    return 1 if found.damage else 0


def _warn(found: Findings) -> None:
    for remark in (*([found.problem] if found.problem is not None else []), *found.remarks):
        print(f"vggdist: {remark}", file=sys.stderr)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
