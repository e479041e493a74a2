"""Only regular files up to a size limit are read, and nothing blocks."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from vggdist.config.files import open_regular, read_regular, read_text


def test_a_file_up_to_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"12345678"):
        path.write_bytes(content)
        assert read_regular(path, 8) == content == read_regular(str(path), 9)
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 8) == b"12345678"
    with open_regular(path) as file:
        assert file.read(3) == b"123"


@pytest.mark.parametrize("read", [lambda path: read_regular(path, 7), lambda path: open_regular(path, 7)])
def test_a_larger_file_is_refused_by_its_size_before_it_is_read(tmp_path: Path, read) -> None:  # type: ignore[no-untyped-def]
    with (tmp_path / "file").open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(OSError, match=r"it has 1099511627776 bytes; expected at most 7.*file") as caught:
        read(tmp_path / "file")
    assert caught.value.errno == errno.EFBIG and caught.value.filename == str(tmp_path / "file")


def test_a_file_that_has_more_than_its_size_says_is_read_up_to_the_limit() -> None:
    size = len(Path("/proc/self/maps").read_bytes())  # whose reported size is 0
    assert size > 1000 and len(read_regular("/proc/self/maps", 10 * size)) > 1000
    with pytest.raises(OSError, match="more bytes than its reported size; expected at most 1000"):
        read_regular("/proc/self/maps", 1000)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["FIFO", "socket", "character device", "folder", "absent", "broken symlink"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    expected = {"FIFO": "it is a FIFO, not a regular", "character device": "it is a character device", "folder": "Is a dir"}
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "character device":
        path.symlink_to("/dev/zero")
    elif kind == "broken symlink":
        path.symlink_to("nothing")
    with socket.socket(socket.AF_UNIX) as server:
        if kind == "socket":
            server.bind(str(path))
        for read in (open_regular, lambda path: read_regular(path, 10)):
            with pytest.raises(OSError, match=expected.get(kind, "No such (file|device)")) as caught:
                read(path)
            assert caught.value.filename in (path, str(path))


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match="it is not a file name"):
        read_regular(tmp_path / name, 10)


def test_no_descriptor_is_left_open_by_a_refusal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        with pytest.raises(OSError):
            open_regular(tmp_path / "fifo")
    assert len(os.listdir("/proc/self/fd")) == before


def test_text_is_utf8_or_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes("über\n".encode())
    assert read_text(path, 100) == "über\n"
    path.write_bytes(b"a\nb\nc\xfcd\n")
    with pytest.raises(OSError, match="line 3 is not UTF-8 .byte 0xfc."):
        read_text(path, 100)
