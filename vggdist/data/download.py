"""Download of the published data sets, once per host, with checksum verification."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pooch

from vggdist.config.errors import RequestError
from vggdist.config.text import printable

_log = logging.getLogger(__name__)
_ASIDE = ".vggdist-download"
"""Folder in data.root for incomplete files; used by one process at a time."""
_TIMEOUT_S = 60


class MissingFileError(RequestError):
    """A file of a published data set is missing."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a publisher's server."""

    name: str
    """Its name on the server."""
    md5: str
    """Published MD5, hexadecimal. It detects corruption, not manipulation."""
    unpacks_to: tuple[str, ...] = ()
    """Members of a tar archive to extract, as paths below the publisher's folder; empty: the file is kept unchanged."""


@dataclass(frozen=True)
class Publisher:
    """Source and destination of a data set."""

    url: str
    """Base address of the files, ending in '/'."""
    folder: str
    """Destination folder below data.root."""
    files: tuple[RemoteFile, ...]


def _idx_files(*md5s: str) -> tuple[RemoteFile, ...]:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(RemoteFile(f"{name}-ubyte.gz", md5) for name, md5 in zip(names, md5s, strict=True))


# Checksums: from Krizhevsky's page for CIFAR; from the README of zalandoresearch/fashion-mnist; from torchvision for MNIST,
# which uses the same mirror (LeCun's server no longer provides it). CIFAR's binary distribution is downloaded because it has
# the same images as the pickled one without pickles.
PUBLISHERS: Mapping[str, Publisher] = {
    "cifar10": Publisher(
        "https://www.cs.toronto.edu/~kriz/",
        ".",
        (
            RemoteFile(
                "cifar-10-binary.tar.gz",
                "c32a1d4ab5d03f1284b67883e8d87530",
                tuple(
                    f"cifar-10-batches-bin/{name}"
                    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin", "batches.meta.txt")
                ),
            ),
        ),
    ),
    "cifar100": Publisher(
        "https://www.cs.toronto.edu/~kriz/",
        ".",
        (
            RemoteFile(
                "cifar-100-binary.tar.gz",
                "03b5dce01913d631647c71ecec9e9cb8",
                tuple(f"cifar-100-binary/{name}" for name in ("train.bin", "test.bin", "fine_label_names.txt")),
            ),
        ),
    ),
    "mnist": Publisher(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "mnist",
        _idx_files(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
    ),
    "fashion_mnist": Publisher(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "fashion-mnist",
        _idx_files(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
}


def missing(name: str, path: Path, root: Path) -> MissingFileError:
    """An error with the missing file, its address and its destination."""
    publisher = PUBLISHERS[name]
    addresses = ", ".join(publisher.url + remote.name for remote in publisher.files)
    return MissingFileError(
        f"{path} is missing. Download {addresses} into {root / publisher.folder}, or add "
        f"--data.download true to download it and verify its checksum"
    )


def fetch(name: str, root: Path, base_url: str | None = None, publishers: Mapping[str, Publisher] = PUBLISHERS) -> None:
    """Download the files of a data set that are not in ``root``.

    Any number of processes may call this at once: one downloads, the others wait. A file gets its name only when it is
    complete and its checksum is correct. Existing files are neither replaced nor removed.

    Args:
        name: key in ``publishers``.
        root: data.root; created if missing.
        base_url: address of a mirror with the same files, ending in '/'; None: the publisher's.
        publishers: table of publishers.

    Raises:
        RequestError: network error, wrong checksum, full disk or missing permission; no incomplete file is left.
    """
    publisher = publishers[name]
    with _only_one_process(root):
        _remove_aside(root / _ASIDE, publishers)  # left by a process that was killed
        try:
            for remote in publisher.files:
                wanted = [root / publisher.folder / part for part in remote.unpacks_to or (remote.name,)]
                if not all(path.is_file() for path in wanted):
                    _fetch_file(remote, base_url or publisher.url, root / publisher.folder, root / _ASIDE)
        finally:
            _remove_aside(root / _ASIDE, publishers)


@contextmanager
def _only_one_process(root: Path) -> Iterator[None]:
    """Hold the lock file of ``root``; the kernel releases it when the process ends, also if it is killed."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = os.fdopen(os.open(root / ".download.lock", flags, 0o644), "a")
    except OSError as error:
        raise RequestError(f"cannot download into data.root {root}: {error.strerror}; choose a writable folder") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_aside(aside: Path, publishers: Mapping[str, Publisher]) -> None:
    """Remove the temporary files of downloads, and their folder if it is empty."""
    if aside.is_symlink():
        raise RequestError(f"{aside} is a symlink; remove it")
    remotes = [remote for publisher in publishers.values() for remote in publisher.files]
    parts = [aside / part for remote in remotes for part in (remote.name, *remote.unpacks_to)]
    with suppress(OSError):  # a file that cannot be removed does no harm
        for path in (*aside.glob("tmp*"), *parts):  # pooch's names, and the publishers'
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in parts}, reverse=True):  # inner folders first
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _fetch_file(remote: RemoteFile, url: str, folder: Path, aside: Path) -> None:
    """Download a file to ``aside``, verify it, extract it if it is an archive, and move it into ``folder``."""
    pooch.get_logger().setLevel(logging.WARNING)  # replaced by the line below
    _log.info("downloading %s to %s", url + remote.name, printable(folder))
    try:
        aside.mkdir(exist_ok=True)
        pooch.retrieve(
            url + remote.name,
            f"md5:{remote.md5}",
            fname=remote.name,
            path=aside,
            downloader=pooch.HTTPDownloader(timeout=_TIMEOUT_S),
        )
        if remote.unpacks_to:
            _unpack(aside / remote.name, remote.unpacks_to, aside)
        for part in remote.unpacks_to or (remote.name,):
            target = folder / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (aside / part).chmod(0o644)  # pooch makes files readable by the owner only; a data folder is shared
            if target.is_file():
                continue
            if os.path.lexists(target):
                raise FileExistsError(f"{target} is not a file")
            os.replace(aside / part, target)
    except (OSError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:  # requests' errors are OSErrors
        raise RequestError(
            f"downloading {url + remote.name} to {folder} failed: {error}. Check the network and start "
            f"again, or download the file elsewhere (md5 {remote.md5}) and put it there"
        ) from error


def _unpack(archive: Path, parts: Sequence[str], folder: Path) -> None:
    """Extract the named regular files of an archive into ``folder``, and nothing else, in one pass.

    Not ``pooch.Untar``: before Python 3.12 it extracts without a filter, so a member that is a symlink becomes a link out of
    the folder; and it decompresses the archive once for each file.
    """
    with tarfile.open(archive) as members:
        for member in members:
            name = member.name.removeprefix("./")
            if name in parts and member.isfile() and (opened := members.extractfile(member)) is not None:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened, target.open("wb") as file:
                    shutil.copyfileobj(opened, file)
