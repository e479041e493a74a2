"""Images into record files: to be continued when interrupted, and whole or absent under the final name."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vggdist.config.errors import RequestError
from vggdist.data.decode import DamagedImageError
from vggdist.data.preparation import Change, Outcome, Part, changed, fingerprint, write_whole
from vggdist.data.recordio import ImageRecord, RecordWriter
from vggdist.data.records import CLASSES

_ASIDE = ".part"


def write_records(
    part: Part,
    names: tuple[str, ...],
    target: Path,
    change: Change,
    threads: int,
    damaged: str,
    advance: Callable[[int], object],
) -> Outcome:
    """Write ``<part>.rec``, ``<part>.idx`` and ``classes.txt``; goes on where an earlier call was interrupted.

    A key is the place of the image in its part. The files stand aside until they are whole and on the disk.

    Raises:
        DamagedImageError: an image does not decode and ``damaged`` is ``stop``.
    """
    target.mkdir(parents=True, exist_ok=True)
    write_whole(target / CLASSES, "".join(f"{name}\n" for name in names).encode())
    final, index = target / f"{part.name}.rec", target / f"{part.name}.idx"
    records, lines, journal = (target / f"{part.name}.{end}{_ASIDE}" for end in ("rec", "idx", "json"))
    request = fingerprint(part, names, change)
    done = target / f".{part.name}.done"
    if done.exists() and final.exists() and index.exists():
        told = json.loads(done.read_text())
        if told["request"] == request:
            advance(len(part.store))
            return Outcome(told["written"], told["left_out"])
    outcome, first = _resume(records, lines, journal, request)
    advance(first)
    with records.open("r+b") as record_file, lines.open("r+b") as index_file, journal.open("ab") as journal_file:
        writer = RecordWriter(record_file, index_file)
        for key, content in changed(part.store, first, change, threads):
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
    done.unlink(missing_ok=True)
    index.unlink(missing_ok=True)  # the index of earlier records must not stand beside these
    records.replace(final)
    lines.replace(index)
    write_whole(done, json.dumps({"request": request, **asdict(outcome)}).encode())
    journal.unlink()
    return outcome


def _resume(records: Path, lines: Path, journal: Path, request: str) -> tuple[Outcome, int]:
    """What an interrupted call of the same request left, cut after its last whole record; else fresh files.

    Returns:
        What it had done, and the place of the next image.
    """
    outcome, first, end, index_end = Outcome(), 0, 0, 0
    kept: list[dict[str, object]] = [{"request": request}]
    told = _json_lines(journal)
    if told[:1] == kept and records.exists() and lines.exists():
        left_out, size = {entry["key"]: entry for entry in told[1:]}, records.stat().st_size
        waiting = [line for line in lines.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")][::-1]
        with records.open("rb") as file:
            while True:  # one image after the other, as long as it is known what became of it
                if first in left_out:
                    outcome.left_out.append({what: str(left_out[first][what]) for what in ("image", "reason")})
                    kept.append(left_out[first])
                else:
                    line = waiting.pop() if waiting else b""
                    length = _length_at(file, end, size)
                    if line != b"%d\t%d\n" % (first, end) or length is None:
                        break
                    end, index_end = end + length, index_end + len(line)
                    outcome.written += 1
                first += 1
    for path, length in ((records, end), (lines, index_end)):
        path.touch()
        os.truncate(path, length)
    write_whole(journal, b"".join(json.dumps(entry).encode() + b"\n" for entry in kept))
    return outcome, first


def _length_at(file: io.BufferedReader, position: int, size: int) -> int | None:
    """Bytes of the record at a position, with all its parts; None where it is not all there."""
    start = position
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return None
        word = int.from_bytes(head[4:], "little")
        length = word & (2**29 - 1)
        position += 8 + length + -length % 4
        if position > size:
            return None
        if word >> 29 in (0, 3):
            return position - start


def _json_lines(path: Path) -> list[dict[str, object]]:
    """The whole lines of a journal."""
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]
