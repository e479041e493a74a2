"""Downloads are complete, verified, and made once."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.data import download
from vggdist.data.download import Publisher, RemoteFile


class _Server(ThreadingHTTPServer):
    """Local server of ``contents`` that counts the requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.contents: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        self.server.requests.append(name)
        time.sleep(0.2)  # long enough for a request of the second process, if it were not locked out
        self.send_response(200 if name in self.server.contents else 404)
        self.end_headers()
        self.wfile.write(self.server.contents.get(name, b""))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with _Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def _publishers(content: bytes, *unpacks_to: str, md5: str = "") -> dict[str, Publisher]:
    return {"set": Publisher("http://nowhere.invalid/", "sub", (RemoteFile("file", md5 or _md5(content), unpacks_to),))}


def _archive(**contents: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"folder/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_file_is_fetched_readable_by_all_and_not_fetched_again(server: _Server, tmp_path: Path) -> None:
    server.contents["file"] = b"content"
    for _ in range(2):
        download.fetch("set", tmp_path / "new", server.url, _publishers(b"content"))
    path = tmp_path / "new" / "sub" / "file"
    assert path.read_bytes() == b"content" and path.stat().st_mode & 0o777 == 0o644
    assert server.requests == ["file"]


def test_archive_is_unpacked_and_not_kept(server: _Server, tmp_path: Path) -> None:
    server.contents["file"] = packed = _archive(a=b"1", b=b"22")
    download.fetch("set", tmp_path, server.url, _publishers(packed, "folder/a", "folder/b"))
    assert (tmp_path / "sub/folder/b").read_bytes() == b"22"
    assert _left(tmp_path) == {".download.lock", "sub/folder/a", "sub/folder/b"}


def _archive_of_symlink(target: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("folder/a")
        member.type, member.linkname = tarfile.SYMTYPE, target
        archive.addfile(member)
    return packed.getvalue()


@pytest.mark.parametrize(
    ("content", "unpacks_to", "md5", "message"),
    [
        (b"content", (), _md5(b"other"), "hash"),
        (b"not an archive", ("folder/a",), "", "file could not be opened"),
        (_archive(b=b"1"), ("folder/a",), "", "No such file"),
        (_archive(**{"../../escape": b"1"}), ("folder/a",), "", "No such file"),  # the member is not extracted
        (_archive_of_symlink("/etc/passwd"), ("folder/a",), "", "No such file"),  # pooch.Untar would extract the link
    ],
    ids=["other-hash", "no-archive", "file-missing", "outside", "symlink"],  # an archive's bytes contain the time
)
def test_failure_names_the_address_and_leaves_nothing(
    server: _Server, tmp_path: Path, content: bytes, unpacks_to: tuple[str, ...], md5: str, message: str
) -> None:
    server.contents["file"] = content
    with pytest.raises(RequestError, match=message) as caught:
        download.fetch("set", tmp_path / "root", server.url, _publishers(content, *unpacks_to, md5=md5))
    for part in (f"{server.url}file", str(tmp_path / "root" / "sub"), "put it there"):
        assert part in str(caught.value)
    assert _left(tmp_path) == {"root/.download.lock"}


def test_absent_server_and_absent_file_are_reported(server: _Server, tmp_path: Path) -> None:
    for url in (server.url, "http://127.0.0.1:1/"):
        with pytest.raises(RequestError, match=f"downloading {url}file to .* failed"):
            download.fetch("set", tmp_path, url, _publishers(b""))


def test_root_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(RequestError, match="cannot download into data.root"):
        download.fetch("set", tmp_path / "root", None, _publishers(b""))


def test_what_a_killed_download_left_is_removed_and_nothing_else(server: _Server, tmp_path: Path) -> None:
    server.contents["file"] = packed = _archive(a=b"1", b=b"22")
    mine = {".download-mine/file", ".vggdist-download/mine", ".vggdist-download/folder/mine"}
    for name in (*mine, ".vggdist-download/tmp1234", ".vggdist-download/file", ".vggdist-download/folder/a"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"con")
    download.fetch("set", tmp_path, server.url, _publishers(packed, "folder/a", "folder/b"))
    assert _left(tmp_path) == {".download.lock", "sub/folder/a", "sub/folder/b"} | mine


def test_files_that_are_there_are_not_replaced_when_others_are_fetched(server: _Server, tmp_path: Path) -> None:
    server.contents["file"] = packed = _archive(a=b"1", b=b"22")
    (tmp_path / "sub" / "folder").mkdir(parents=True)
    (tmp_path / "sub" / "folder" / "a").write_bytes(b"mine")
    download.fetch("set", tmp_path, server.url, _publishers(packed, "folder/a", "folder/b"))
    assert [(tmp_path / "sub" / "folder" / name).read_bytes() for name in "ab"] == [b"mine", b"22"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["sub/file", ".download.lock", ".vggdist-download"])
@pytest.mark.parametrize("kind", ["broken symlink", "FIFO", "symlink to a folder"])
def test_what_is_in_the_way_is_reported_and_stays(server: _Server, tmp_path: Path, name: str, kind: str) -> None:
    server.contents["file"] = b"content"
    path = tmp_path / "root" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / ("gone" if kind == "broken symlink" else "mine"))
    with pytest.raises(RequestError):
        download.fetch("set", tmp_path / "root", server.url, _publishers(b"content"))
    assert path.is_fifo() if kind == "FIFO" else path.is_symlink()
    assert (tmp_path / "mine" / "file").read_text() == "precious" and not (tmp_path / "gone").exists()


def _fetch_as_rank(root: Path, url: str) -> None:
    os.environ["NO_PROXY"] = "127.0.0.1"
    download.fetch("set", root, url, _publishers(b"content"))
    assert (root / "sub" / "file").read_bytes() == b"content"


def test_two_processes_at_once_fetch_once(server: _Server, tmp_path: Path) -> None:
    server.contents["file"] = b"content"
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_fetch_as_rank, args=(tmp_path, server.url)) for _ in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    assert server.requests == ["file"]


@pytest.mark.parametrize("name", download.PUBLISHERS)
def test_missing_message_says_what_whence_whither_and_how(name: str, tmp_path: Path) -> None:
    publisher = download.PUBLISHERS[name]
    message = str(download.missing(name, tmp_path / "absent", tmp_path))
    folder = tmp_path / publisher.folder
    for part in (
        f"{tmp_path / 'absent'} is missing",
        publisher.url + publisher.files[0].name,
        f"into {folder}",
        "--data.download true",
    ):
        assert part in message
