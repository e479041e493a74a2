"""Writing of record files: resumable after an interruption, and complete or absent under the final name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vggdist.config.errors import RequestError
from vggdist.data.decode import DamagedImageError
from vggdist.data.recordio import ImageRecord, RecordWriter, record_end
from vggdist.preparation.conversion import Outcome, Part, Transform, transformed
from vggdist.preparation.output_folder import OutputFolder, read_json_lines, write_whole


def write_records(
    part: Part,
    target: OutputFolder,
    request: str,
    transform: Transform,
    threads: int,
    damaged: str,
    advance: Callable[[int], object],
) -> Outcome:
    """Write records and their index to temporary files, for :func:`publish_records`; resumes interrupted work.

    The key of a record is the index of the image in its part.

    Args:
        request: result of :func:`vggdist.preparation.conversion.fingerprint`.

    Raises:
        DamagedImageError: an image does not decode and ``damaged`` is ``stop``.
        RequestError: all images are damaged.
    """
    records, lines, journal = (target.own / f"{part.name}.{kind}" for kind in ("rec", "idx", "json"))
    if (earlier := _finished(part, target, request)) is not None:
        advance(len(part.store))
        return earlier
    outcome, first = _resume(records, lines, journal, request)
    advance(first)
    with records.open("r+b") as record_file, lines.open("r+b") as index_file, journal.open("ab") as journal_file:
        writer = RecordWriter(record_file, index_file)
        for key, content in transformed(part.store, first, transform, threads, DamagedImageError):
            if isinstance(content, DamagedImageError):
                if damaged == "stop":
                    raise content
                outcome.left_out.append({"image": part.store.name(key), "reason": str(content)})
                journal_file.write(json.dumps({"key": key, **outcome.left_out[-1]}).encode() + b"\n")
                journal_file.flush()
            else:
                writer.write(ImageRecord(key, float(part.labels[key]), content))
                outcome.written += 1
            advance(1)
        for file in (record_file, index_file):
            os.fsync(file.fileno())
    if not outcome.written:
        raise RequestError(f"all {len(part.store)} images of {part.name} are damaged; nothing was written")
    return outcome


def publish_records(part: Part, target: OutputFolder, request: str, outcome: Outcome) -> None:
    """Move complete records and their index to ``<part>.rec`` and ``<part>.idx``, unless this is done.

    Raises:
        RequestError: this would replace a file that an earlier call did not write.
    """
    if _finished(part, target, request) is not None:
        return
    done = target.own / f"{part.name}.done"
    done.unlink(missing_ok=True)
    target.remove(f"{part.name}.idx")  # new records must never be beside an old index
    for kind in ("rec", "idx"):
        target.publish(target.own / f"{part.name}.{kind}", f"{part.name}.{kind}")
    write_whole(done, json.dumps({"request": request, **asdict(outcome)}).encode() + b"\n")
    (target.own / f"{part.name}.json").unlink()


def _finished(part: Part, target: OutputFolder, request: str) -> Outcome | None:
    """The outcome of an earlier call of this request, if its files have their final names; else None."""
    (found,) = read_json_lines(target.own / f"{part.name}.done")[:1] or [{}]
    whole = target.is_own(f"{part.name}.rec") and target.is_own(f"{part.name}.idx")
    return Outcome(found["written"], found["left_out"]) if whole and found.get("request") == request else None


def _resume(records: Path, lines: Path, journal: Path, request: str) -> tuple[Outcome, int]:
    """Truncate the files of an interrupted call of the same request after the last complete record; else create empty files.

    Returns:
        The outcome so far, and the index of the next image.
    """
    outcome, first, end, index_end = Outcome(), 0, 0, 0
    kept: list[dict[str, object]] = [{"request": request}]
    found = read_json_lines(journal)
    if found[:1] == kept and records.exists() and lines.exists():
        left_out, size = {entry["key"]: entry for entry in found[1:]}, records.stat().st_size
        waiting = [line for line in lines.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")][::-1]
        with records.open("rb") as file:

            def head_at(position: int) -> bytes:
                file.seek(position)
                return file.read(8)

            while True:  # image by image, as long as each was written or left out
                if first in left_out:
                    outcome.left_out.append({what: str(left_out[first][what]) for what in ("image", "reason")})
                    kept.append(left_out[first])
                else:
                    line = waiting.pop() if waiting else b""
                    next_end = record_end(head_at, end, size)
                    if line != b"%d\t%d\n" % (first, end) or next_end is None or next_end > size:
                        break
                    end, index_end = next_end, index_end + len(line)
                    outcome.written += 1
                first += 1
    for path, length in ((records, end), (lines, index_end)):
        path.touch()
        os.truncate(path, length)
    write_whole(journal, b"".join(json.dumps(entry).encode() + b"\n" for entry in kept))
    return outcome, first
