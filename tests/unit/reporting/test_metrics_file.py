"""``metrics.jsonl`` of a run that continues: the valid lines up to the step are kept, however the file was damaged."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.reporting.metrics_file import MetricsFile


def content(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def lines(*steps: int) -> bytes:
    return b"".join(b'{"step": %d, "epoch": 1.0}\n' % step for step in steps)


DAMAGED = {
    "no UTF-8": b'{"step": 2, "x": "\xff\xfe"}\n',
    "nested deeply": b'{"step": 2, "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}\n",
    "too long": b'{"step": 2, "x": "' + b"y" * 2**21 + b'"}\n',
    "zeros, as after a power failure": bytes(5000) + b"\n",
    "no JSON": b"garbage\n",
    "no object": b"7\n",
    "no step": b"{}\n",
    "a step that is no number": b'{"step": "2"}\n',
    "a step that is true": b'{"step": true}\n',
    "a step that is no whole number": b'{"step": 2.0}\n',
    "a step that is not finite": b'{"step": Infinity}\n',
    "a step of 5,000 digits": b'{"step": ' + b"2" * 5000 + b"}\n",
    "an empty line": b"\n",
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("before", [0, 1])
def test_a_damaged_line_is_omitted_and_reported(
    tmp_path: Path, log: pytest.LogCaptureFixture, damage: str, before: int
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1)[: before and None] + DAMAGED[damage] + lines(3, 4, 9))
    MetricsFile(path, 4).record(5, 1.0, {})
    assert content(path) == [1, 3, 4, 5][1 - before :] and "damaged line(s) removed" in log.text
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


@pytest.mark.parametrize("end", [b"", b'{"step": 2, "ep', b'{"step": 2}', b"\xff", bytes(3)])
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2) + end)
    MetricsFile(path, 4).record(5, 1.0, {})
    assert content(path) == [1, 2, 5]


def full_disk(*arguments: object, **named: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_keep_lines_after_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2, 8, 9))
    monkeypatch.setattr(Path, "open", full_disk)
    MetricsFile(path, 2)
    monkeypatch.undo()
    assert content(path) == [1, 2]


def test_a_full_disk_keeps_a_damaged_line_in_the_midst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1) + b"garbage\n" + lines(2, 9))
    monkeypatch.setattr(Path, "open", full_disk)
    MetricsFile(path, 2)
    monkeypatch.undo()
    assert path.read_bytes() == lines(1) + b"garbage\n" + lines(2) and "keeps its damaged lines" in log.text


def make_folder(path: Path) -> None:
    path.mkdir()


def link_to_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [make_folder, os.mkfifo, link_to_zeros])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, make: object) -> None:
    path = tmp_path / "metrics.jsonl"
    make(path)  # type: ignore[operator]
    with pytest.raises(RequestError, match=r"metrics.jsonl cannot be continued: .*; move it away"):
        MetricsFile(path, 4)
