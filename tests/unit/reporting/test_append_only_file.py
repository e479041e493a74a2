"""After its disk was full for a while, a file has all records in order."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.disks import Disk, small_disk
from vggdist.reporting import append_only_file
from vggdist.reporting.append_only_file import AppendOnlyFile


def test_records_are_on_the_disk_when_they_were_appended(tmp_path: Path) -> None:
    file = AppendOnlyFile(tmp_path / "new" / "file")
    file.append(b"a\n", b"b\n")
    assert (tmp_path / "new" / "file").read_bytes() == b"a\nb\n"
    file.append(b"c\n")
    assert (tmp_path / "new" / "file").read_bytes() == b"a\nb\nc\n"


def test_another_process_appends_to_what_is_there(tmp_path: Path) -> None:
    for record in (b"a\n", b"b\n"):
        file = AppendOnlyFile(tmp_path / "file")
        file.append(record)
        file.close()
    assert (tmp_path / "file").read_bytes() == b"a\nb\n"


@pytest.mark.parametrize("room", range(9))
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_what_a_full_disk_refuses_is_written_in_its_order_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, room: int, error: int
) -> None:
    disk, file = Disk(monkeypatch, room, error), AppendOnlyFile(tmp_path / "file")
    for number in range(8):
        file.append(f"{number}\n".encode())
    assert log.text.count("cannot be written") == 1 and os.strerror(error) in log.text
    disk.room = 100
    file.append(b"8\n")
    assert (tmp_path / "file").read_bytes() == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n"
    assert log.text.count("is written again; nothing is lost") == 1 and file.lost == 0


def test_a_file_that_cannot_be_made_is_made_when_it_can(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "folder").write_text("in the way")
    file = AppendOnlyFile(tmp_path / "folder" / "file")
    file.append(b"a\n")
    file.sync()
    (tmp_path / "folder").unlink()
    file.append(b"b\n")
    assert (tmp_path / "folder" / "file").read_bytes() == b"a\nb\n" and log.text.count("cannot be written") == 1


def test_what_is_kept_back_is_bounded_and_what_is_dropped_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(append_only_file, "_LONGEST_BACKLOG", 6)
    disk, file = Disk(monkeypatch, 1), AppendOnlyFile(tmp_path / "file")
    for number in range(8):
        file.append(f"{number}\n".encode())
    disk.room = 100
    file.append(b"8\n")
    assert (tmp_path / "file").read_bytes() == b"0\n1\n2\n8\n" and file.lost == 5
    assert "5 record(s) are lost" in log.text


def test_what_the_disk_never_took_is_counted_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    Disk(monkeypatch, 2)
    file = AppendOnlyFile(tmp_path / "file")
    file.append(b"a\n", b"b\n", b"c\n")
    file.close()
    file.close()
    assert file.lost == 2 and log.text.count("lacks 2 record(s)") == 1
    file.append(b"d\n")
    assert file.lost == 3 and (tmp_path / "file").read_bytes() == b"a\n"


def test_a_disk_that_is_really_full_takes_all_later(tmp_path: Path) -> None:
    with small_disk(tmp_path, "64k"):
        file, records = AppendOnlyFile(tmp_path / "file"), [b"%07d\n" % number for number in range(4000)]
        (tmp_path / "other").write_bytes(bytes(60 * 1024))
        for record in records[:2000]:
            file.append(record)
        assert (tmp_path / "file").stat().st_size < 16_000
        (tmp_path / "other").unlink()
        for record in records[2000:]:
            file.append(record)
        file.close()
        assert (tmp_path / "file").read_bytes() == b"".join(records) and file.lost == 0


def test_a_sync_covers_what_was_appended_and_the_file_s_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, synced = AppendOnlyFile(tmp_path / "file"), list[str]()
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink().name))
    file.append(b"a\n")
    file.sync()
    file.sync()
    assert synced == ["file", tmp_path.name, "file"]


def test_appending_does_not_wait_for_a_sync_nor_does_closing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, end = threading.Event(), threading.Event()

    def slow(descriptor: int) -> None:
        begun.set()
        assert end.wait(30)
        os.fstat(descriptor)  # it is still open

    monkeypatch.setattr(os, "fsync", slow)
    file = AppendOnlyFile(tmp_path / "file")
    file.append(b"a\n")
    thread = threading.Thread(target=file.sync)
    thread.start()
    assert begun.wait(30)
    file.append(b"b\n")
    file.close()
    end.set()
    thread.join(30)
    assert not thread.is_alive() and (tmp_path / "file").read_bytes() == b"a\nb\n"


def test_a_sync_that_fails_is_reported_and_is_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    file = AppendOnlyFile(tmp_path / "file")
    file.sync()  # there is nothing yet
    file.append(b"a\n")
    file.sync()
    assert "cannot be written: Input/output error" in log.text


def test_a_fifo_that_nobody_reads_does_not_block(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    os.mkfifo(tmp_path / "file")
    file = AppendOnlyFile(tmp_path / "file")
    file.append(b"a\n")
    assert "cannot be written" in log.text
