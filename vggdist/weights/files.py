"""Weight files of other programs: the format is detected by content, and the files are not trusted."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO

from vggdist.config.files import naming, open_regular
from vggdist.weights.mxnet_file import BEGINNING as MXNET_BEGINNING
from vggdist.weights.mxnet_file import read_mxnet
from vggdist.weights.safetensors_file import is_safetensors, read_safetensors
from vggdist.weights.stored_array import StoredArray
from vggdist.weights.torch_file import OLD_BEGINNING, ZIP_BEGINNING, read_old, read_zip

_PUBLISHED = re.compile(r"vgg\d\d(_bn)?-(?P<digits>[0-9a-f]{8})\.(?P<ending>params|pth)")
_HASHES = {"params": "sha1", "pth": "sha256"}
"""Hash algorithms of Gluon's model zoo and torchvision; names of published files contain the first eight digits."""


@contextmanager
def opened(path: Path) -> Iterator[Mapping[str, StoredArray]]:
    """Open a file and return its arrays by name; their values can be read within the context.

    Raises:
        RequestError: the file cannot be read, is damaged, or has an unknown format, detected here or within the context. The
            message names the file.
    """
    with naming(str(path), fault=": "), open_regular(path) as file:
        _check_hash(path, file)
        with _arrays(path, file) as arrays:
            yield arrays


def _arrays(path: Path, file: BinaryIO) -> AbstractContextManager[dict[str, StoredArray]]:
    file.seek(0)
    beginning = file.read(16)
    if beginning.startswith(ZIP_BEGINNING):
        return read_zip(file)
    if beginning.startswith(OLD_BEGINNING):
        return nullcontext(read_old(file))
    if beginning.startswith(MXNET_BEGINNING):
        return nullcontext(read_mxnet(file))
    if is_safetensors(beginning):
        return read_safetensors(path)
    raise ValueError("it is neither an MXNet .params file, a torch.save file, nor a .safetensors file")


def _check_hash(path: Path, file: BinaryIO) -> None:
    """Raise ``ValueError`` if a published file does not match the hash in its name."""
    if named := _PUBLISHED.fullmatch(path.name):
        algorithm = _HASHES[named["ending"]]
        if not hashlib.file_digest(file, algorithm).hexdigest().startswith(named["digits"]):  # type: ignore[arg-type]
            raise ValueError(f"its {algorithm.upper()} differs from that in its name; download it again, or rename it")
