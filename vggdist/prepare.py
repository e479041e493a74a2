"""Images into record files and back, or check either: ``python -m vggdist.prepare photographs/ records/ --short-side 480``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from vggdist.config.errors import VggdistError
from vggdist.data.preparation import Change, Outcome, check, listed_parts, only_writer, write_folder
from vggdist.data.recording import write_records
from vggdist.world import streams

_EPILOG = """\
SOURCE is a folder with train/<class>/ and test/<class>/ (or val/), a folder of <class>/, a list file, or a folder of record
files. A line of a list file is path, tab, class (paths relative to the file), or MXNet's key, tab, label, tab, path.
TARGET receives train.rec, train.idx, test.rec, test.idx and classes.txt, or with --to folder train/<class>/ and test/<class>/.
The same command again goes on where it was interrupted; nothing half-written stands under a final name.
TARGET/prepare.json reports what was written, and what was left out and why.

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
        print(
            f"vggdist: {error.filename}: {error.strerror}; what is written stays, start the same command again",
            file=sys.stderr,
        )
        return 1


def _prepare(asked: argparse.Namespace) -> int:
    quality = asked.quality or (95 if asked.short_side else None)
    change = Change(asked.short_side, quality)
    class_names, parts = listed_parts(asked.source, asked.damaged)
    write = write_records if asked.to == "records" else write_folder
    outcomes: dict[str, Outcome] = {}
    with only_writer(asked.target):
        for part in parts:
            with tqdm(total=len(part.store), desc=part.name, unit="image", dynamic_ncols=True) as bar:
                outcomes[part.name] = write(part, class_names, asked.target, change, asked.threads, asked.damaged, bar.update)
            outcomes[part.name].left_out[:0] = [{"image": name, "reason": told} for name, told in part.left_out.items()]
        report = {
            "source": str(asked.source),
            "short_side": asked.short_side,
            "quality": quality,
            "classes": len(class_names),
            "parts": {name: outcome.as_report() for name, outcome in outcomes.items()},
        }
        (asked.target / "prepare.json").write_text(json.dumps(report, indent=2) + "\n")
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome.written} images, {len(outcome.left_out)} left out; see {asked.target / 'prepare.json'}")
    return 0


def _check(asked: argparse.Namespace) -> int:
    with tqdm(unit="image", dynamic_ncols=True) as bar:
        total, damage = check(asked.check, asked.threads, bar.update)
    for message in damage:
        print(message)
    print(f"{asked.check}: {total} images, {len(damage)} damaged")
    return 1 if damage else 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
