"""Image folders with one subfolder per class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.config.text import printable
from vggdist.data.decode import Encoded, read_file

_SUFFIXES = (".jpg", ".jpeg", ".png")
_TRAIN_FOLDER, TEST_FOLDERS = "train", ("test", "val", "validation")
# Folders of these names are parts (splits), not classes.
_PART_FOLDERS = {_TRAIN_FOLDER, *TEST_FOLDERS, "training", "testing", "valid", "eval", "evaluation", "dev"}
# Files of file managers, network storage and archivers. Names that begin with a dot are system files, too.
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
_IMAGES, _FOLDERS, _SYSTEM_FILES, _BROKEN_LINKS = "images", "folders", "system files", "broken symlinks"


@dataclass(frozen=True, eq=False)
class Listing:
    """Image files in a fixed order, and their ``(N,) int32`` labels.

    Attributes:
        place: the folder that contains them.
        ignored: number of other entries by kind.
        broken_links: broken symlinks with the suffix of an image.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int32]
    place: Path
    ignored: Mapping[str, int] = field(default_factory=dict)
    broken_links: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Description of the location of the images and of the ignored entries."""
        origin = f"from {printable(self.place)}"
        return f"{origin}; ignored: {counted(self.ignored)}" if self.ignored else origin

    def split(self, first: NDArray[np.int64], second: NDArray[np.int64]) -> tuple[Listing, Listing]:
        """Split by index; the first listing keeps the ignored entries and the broken symlinks."""
        one, other = ((tuple(self.paths[index] for index in part), self.labels[part]) for part in (first, second))
        return Listing(*one, self.place, self.ignored, self.broken_links), Listing(*other, self.place)


@dataclass(frozen=True, eq=False)
class Layout:
    """Contents of a data folder.

    Attributes:
        test: None if there is no test folder, so that the test set must be held out.
        not_read: names of the entries other than the train and test folders.
    """

    class_names: tuple[str, ...]
    train: Listing
    test: Listing | None
    not_read: tuple[str, ...] = ()


class FileStore:
    """Image files (a :class:`vggdist.data.encoded.Store`)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path, printable."""
        return printable(self.paths[index])

    def stamp(self, index: int) -> str:
        """Size and modification time of the file; empty if it does not exist."""
        try:
            status = self.paths[index].stat()
        except (OSError, ValueError):
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def mark(self, index: int) -> bytes:
        """The file's name with its class folder, and its size; ``RequestError`` if it does not exist."""
        path = self.paths[index]
        try:
            name = os.fsencode(path)
            return b"%s %d" % (b"/".join(name.rsplit(b"/", 2)[-2:]), os.stat(name).st_size)
        except (OSError, ValueError) as error:
            raise RequestError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error

    def read(self, index: int) -> Encoded:
        """Read one file; ``RequestError`` if it cannot be read."""
        return read_file(self.paths[index])

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> FileStore:
        """The files at ``indices``."""
        return FileStore([self.paths[index] for index in indices])


def scan(root: Path) -> Layout:
    """List ``root/train/<class>/`` and ``root/test/<class>/`` (or val, validation; case-insensitive), else ``root/<class>/``.

    Classes and files are sorted, so all ranks have the same list. Entries that are not images are counted by kind and ignored.

    Raises:
        RequestError: there are no classes, a class is empty, the training set lacks a class of the test set, or there is a
            test folder without a train folder.
    """
    if not root.is_dir():
        raise RequestError(
            f"data.root {root} is not a folder; expected a folder with train/<class>/ and test/<class>/, or <class>/"
        )
    entries = _entries(root)
    parts = _part_folders(root, entries)
    if _TRAIN_FOLDER not in parts:
        if parts:
            found = ", ".join(f"{path.name}/" for path in parts.values())
            raise RequestError(
                f"{root} has {found} but not train/; move the training images to {root / _TRAIN_FOLDER}/<class>/, also those "
                f"of a class of such a name"
            )
        classes, ignored = _classes(root, entries)
        return Layout(tuple(classes), _list(root, classes, tuple(classes), ignored), None)
    train = parts[_TRAIN_FOLDER]
    test = next((parts[name] for name in TEST_FOLDERS if name in parts), None)
    read = (train.name, test.name if test is not None else None)
    not_read = tuple(printable(entry.name) for entry in entries if entry.name not in read and _kind(entry) != _SYSTEM_FILES)
    classes, ignored = _classes(train, _entries(train))
    names = tuple(classes)
    training_set = _list(train, classes, names, ignored)
    if test is None:
        return Layout(names, training_set, None, not_read)
    classes, ignored = _classes(test, _entries(test))
    if unknown := [name for name in classes if name not in names]:
        raise RequestError(
            f"{test} has {len(unknown)} classes that {train} does not have: {', '.join(unknown[:5])}; remove them, or add "
            f"training images"
        )
    return Layout(names, training_set, _list(test, classes, names, ignored), not_read)


def scan_test(root: Path) -> tuple[tuple[str, ...], Listing] | None:
    """The class names and images of ``root/test/`` (or val, validation) only; None if there is no such folder.

    Raises:
        RequestError: as :func:`scan`.
    """
    if not root.is_dir():
        raise RequestError(f"data.root {root} is not a folder; expected a folder with test/<class>/, or <class>/")
    folders = _part_folders(root, _entries(root))
    place = next((folders[name] for name in TEST_FOLDERS if name in folders), None)
    return None if place is None else scan_classes(place)


def has_no_parts(root: Path) -> bool:
    """Whether a folder has class folders instead of train and test folders."""
    return root.is_dir() and not _part_folders(root, _entries(root))


def scan_classes(place: Path) -> tuple[tuple[str, ...], Listing]:
    """The class names and images of ``place/<class>/``; ``RequestError`` as :func:`scan`."""
    classes, ignored = _classes(place, _entries(place))
    return tuple(classes), _list(place, classes, tuple(classes), ignored)


def walk(root: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path | RequestError]:
    """The images below a folder at any depth, in byte order of the names; a folder that cannot be read yields its error.

    Other entries are ignored as in :func:`scan`, except for broken symlinks with the suffix of an image. A symlink to a parent
    folder is not followed.

    Args:
        above: device and inode of each parent folder of ``root``.
    """
    try:
        status = root.stat()
        entries = _entries(root)
    except OSError as error:
        yield RequestError(f"{root} cannot be read: {error.strerror}")
        return
    except RequestError as error:
        yield error
        return
    if (here := (status.st_dev, status.st_ino)) in above:
        return
    for entry in entries:
        kind = _kind(entry)
        if kind == _FOLDERS:
            yield from walk(Path(entry.path), (*above, here))
        elif kind == _IMAGES or _is_broken_image(entry, kind):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder in byte order of their names, which is the same in every locale."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror}") from error


def _part_folders(root: Path, entries: Iterable[os.DirEntry[str]]) -> dict[str, Path]:
    """The folders with the name of a part, by their names in lower case."""
    parts: dict[str, Path] = {}
    for entry in entries:
        name = entry.name.lower()
        kind = _kind(entry) if name in _PART_FOLDERS else None
        if kind == _BROKEN_LINKS:
            raise RequestError(f"{root / entry.name} is a broken symlink; restore its target, or remove it")
        if kind == _FOLDERS:
            if name in parts:
                raise RequestError(f"{root} has both {parts[name].name}/ and {entry.name}/; remove or rename one of them")
            parts[name] = root / entry.name
    return parts


def _kind(entry: os.DirEntry[str]) -> str:
    """The kind of an entry, as it is logged."""
    name = entry.name.lower()
    if name.startswith(".") or name in _SYSTEM:
        return _SYSTEM_FILES
    try:
        if entry.is_dir():
            return _FOLDERS
        is_file = entry.is_file()
    except OSError:  # a cycle of symlinks
        is_file = False
    if not is_file:
        return _BROKEN_LINKS if not os.path.exists(entry.path) else "special files"
    suffix = os.path.splitext(name)[1]
    return _IMAGES if suffix in _SUFFIXES else printable(suffix) or "other files"


def _is_broken_image(entry: os.DirEntry[str], kind: str) -> bool:
    return kind == _BROKEN_LINKS and entry.name.lower().endswith(_SUFFIXES)


def _classes(folder: Path, entries: Iterable[os.DirEntry[str]]) -> tuple[dict[str, Path], Counter[str]]:
    """The class folders by class name, in the order of the labels, and the number of other entries by kind."""
    classes: dict[str, Path] = {}
    ignored: Counter[str] = Counter()
    for entry in entries:
        kind = _kind(entry)
        if kind != _FOLDERS:
            ignored["loose images" if kind == _IMAGES else kind] += 1
            continue
        name = class_name(entry.name)
        if name in classes:
            raise RequestError(f"{folder} has two folders for the class {name}; rename one of them")
        classes[name] = folder / entry.name
    if not classes:
        raise RequestError(
            f"{folder} has no class folders; expected {folder}/<class>/<image>.jpg or .png. (Test images without classes "
            f"cannot be evaluated; move such a folder elsewhere, and data.held_out of the training images are the test set)"
        )
    return dict(sorted(classes.items())), ignored


def class_name(folder: str) -> str:
    """The printable class name of a folder, the same in every locale.

    Bytes that are not UTF-8 are escaped. Unicode is normalised (NFC), because file systems convert between composed and
    decomposed letters.
    """
    return printable(unicodedata.normalize("NFC", os.fsencode(folder).decode("utf-8", "backslashreplace")))


def fits_class(name: str) -> bool:
    """Whether :func:`scan` would accept a class folder of this name."""
    hidden = name.startswith(".") or name.lower() in _SYSTEM
    return not hidden and "/" not in name and "\0" not in name and 0 < len(os.fsencode(name)) <= 255


def _list(folder: Path, classes: Mapping[str, Path], class_names: tuple[str, ...], ignored: Counter[str]) -> Listing:
    """List the images of some classes; labels are indices of ``class_names``. Adds other entries to ``ignored``."""
    paths: list[Path] = []
    counts: list[int] = []
    broken_links: list[str] = []
    for place in classes.values():
        kinds: Counter[str] = Counter()
        images: list[Path] = []
        for entry in _entries(place):
            kind = _kind(entry)
            if kind == _IMAGES:
                images.append(Path(entry.path))
                continue
            kinds[kind] += 1
            if _is_broken_image(entry, kind):
                broken_links.append(printable(entry.path))
        if not images:
            raise RequestError(_empty(place, kinds))
        ignored += kinds
        paths += images
        counts.append(len(images))
    order = {name: label for label, name in enumerate(class_names)}
    labels = np.repeat([order[name] for name in classes], counts).astype(np.int32)
    return Listing(tuple(paths), labels, folder, ignored, tuple(broken_links))


def _empty(place: Path, kinds: Counter[str]) -> str:
    """Error message for a class folder without images."""
    found = f", only {counted(kinds)}" if kinds else ""
    message = f"{place} has no .jpg, .jpeg or .png file{found}; add some or remove it"
    if kinds[_FOLDERS]:
        message += f". Images must be directly in their class folder; should data.root be {place}?"
    return message


def counted(kinds: Mapping[str, int]) -> str:
    """Format counts by kind, the most frequent first: ``3 .webp, 1 folder``."""
    return ", ".join(
        f"{count} {kind if count > 1 or kind.startswith('.') else kind.removesuffix('s')}"
        for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )
