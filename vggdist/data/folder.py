"""Images in one folder for each class."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vggdist.config.errors import RequestError
from vggdist.config.text import printable
from vggdist.data.decode import Encoded, read_file

_SUFFIXES = (".jpg", ".jpeg", ".png")
_TRAIN_FOLDER, TEST_FOLDERS = "train", ("test", "val", "validation")
# Where one of these lies beside class folders, it is meant as a part and not as a class.
_PART_FOLDERS = {_TRAIN_FOLDER, *TEST_FOLDERS, "training", "testing", "valid", "eval", "evaluation", "dev"}
# What file managers, network storage and unpackers leave in folders, beside names that begin with a dot.
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "lost+found", "$recycle.bin", "system volume information"}
_IMAGES, _FOLDERS, _SYSTEM_FILES, _DEAD_LINKS = "images", "folders", "system files", "dead links"


@dataclass(frozen=True, eq=False)
class Listing:
    """Files in a fixed order, and the class of each: ``(N,) int32``.

    Attributes:
        place: the folder that holds them.
        ignored: how many entries are no images, by kind.
        dead_links: those among them that have the names of images, but are links to nothing.
    """

    paths: tuple[Path, ...]
    labels: np.ndarray
    place: Path
    ignored: Mapping[str, int] = field(default_factory=dict)
    dead_links: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Where the images are, and what beside them is ignored, in words."""
        origin = f"from {printable(self.place)}"
        return f"{origin}; ignored: {counted(self.ignored)}" if self.ignored else origin

    def split(self, first: np.ndarray, second: np.ndarray) -> tuple[Listing, Listing]:
        """The images at the indices ``first``, with all else that is known of the folder, and those at ``second``."""
        one, other = ((tuple(self.paths[index] for index in part), self.labels[part]) for part in (first, second))
        return Listing(*one, self.place, self.ignored, self.dead_links), Listing(*other, self.place)


@dataclass(frozen=True, eq=False)
class Layout:
    """What a data folder holds.

    Attributes:
        test: None where there is no test folder and a part must be held out.
        not_read: names of what lies beside the folders of both parts.
    """

    class_names: tuple[str, ...]
    train: Listing
    test: Listing | None
    not_read: tuple[str, ...] = ()


class FileStore:
    """Images in files of their own (a :class:`vggdist.data.encoded.Store`)."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path, as it can be printed."""
        return printable(self.paths[index])

    def stamp(self, index: int) -> str:
        """Size and time of the file; empty where there is none."""
        try:
            status = self.paths[index].stat()
        except (OSError, ValueError):
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def mark(self, index: int) -> bytes:
        """The file's name in the folder of its class, and its size; ``RequestError`` where there is none."""
        path = self.paths[index]
        try:
            name = os.fsencode(path)
            return b"%s %d" % (b"/".join(name.rsplit(b"/", 2)[-2:]), os.stat(name).st_size)
        except (OSError, ValueError) as error:
            raise RequestError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from error

    def read(self, index: int) -> Encoded:
        """One file; ``RequestError`` where it cannot be read."""
        return read_file(self.paths[index])

    def take(self, indices: Sequence[int] | np.ndarray) -> FileStore:
        """Some of the files."""
        return FileStore([self.paths[index] for index in indices])


def scan(root: Path) -> Layout:
    """List ``root/train/<class>/`` and ``root/test/<class>/`` (or val, validation; in any case), or else ``root/<class>/``.

    Classes and files are in sorted order, so every rank lists the same. What is no image is counted by kind and ignored.

    Raises:
        RequestError: no classes, an empty class, a test class that train lacks, or a test folder alone.
    """
    if not root.is_dir():
        raise RequestError(
            f"data.root {root} is not a folder; expected one that holds train/<class>/ and test/<class>/, or <class>/"
        )
    entries = _entries(root)
    parts = _part_folders(root, entries)
    if _TRAIN_FOLDER not in parts:
        if parts:
            found = ", ".join(f"{path.name}/" for path in parts.values())
            raise RequestError(
                f"{root} holds {found} and no train/: put the training images into {root / _TRAIN_FOLDER}/<class>/, "
                f"and a class of such a name beside the others there"
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
            f"{test} has {len(unknown)} classes that {train} lacks: {', '.join(unknown[:5])}; the "
            f"network cannot learn them; remove them or add training images"
        )
    return Layout(names, training_set, _list(test, classes, names, ignored), not_read)


def scan_test(root: Path) -> tuple[tuple[str, ...], Listing] | None:
    """The class names and images of ``root/test/`` (or val, validation) alone; None: there is none.

    Raises:
        RequestError: as :func:`scan`.
    """
    if not root.is_dir():
        raise RequestError(f"data.root {root} is not a folder; expected one that holds test/<class>/, or <class>/")
    folders = _part_folders(root, _entries(root))
    place = next((folders[name] for name in TEST_FOLDERS if name in folders), None)
    return None if place is None else scan_classes(place)


def has_no_parts(root: Path) -> bool:
    """Whether a folder holds the folders of classes and not those of parts."""
    return root.is_dir() and not _part_folders(root, _entries(root))


def scan_classes(place: Path) -> tuple[tuple[str, ...], Listing]:
    """The class names and images of ``place/<class>/``; ``RequestError`` as :func:`scan`."""
    classes, ignored = _classes(place, _entries(place))
    return tuple(classes), _list(place, classes, tuple(classes), ignored)


def walk(root: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path | RequestError]:
    """The images below a folder, at any depth, in the order of the names' bytes; for a folder that cannot be read its error.

    What is no image is left out as in :func:`scan`, but a link to nothing that has the name of one. A link to a folder that it
    lies in is not followed.

    Args:
        above: device and inode of each folder that ``root`` lies in.
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
        elif kind == _IMAGES or _is_dead_image(entry, kind):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in the order of the names' bytes: the same in every locale."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise RequestError(f"{folder} cannot be read: {error.strerror}") from error


def _part_folders(root: Path, entries: Iterable[os.DirEntry[str]]) -> dict[str, Path]:
    """The folders that are named as parts are, by their names in lower case."""
    parts: dict[str, Path] = {}
    for entry in entries:
        name = entry.name.lower()
        kind = _kind(entry) if name in _PART_FOLDERS else None
        if kind == _DEAD_LINKS:
            raise RequestError(f"{root / entry.name} is a link to nothing; restore what it links to, or remove it")
        if kind == _FOLDERS:
            if name in parts:
                raise RequestError(f"{root} holds both {parts[name].name}/ and {entry.name}/; remove or rename one of them")
            parts[name] = root / entry.name
    return parts


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, in the words of the log."""
    name = entry.name.lower()
    if name.startswith(".") or name in _SYSTEM:
        return _SYSTEM_FILES
    try:
        if entry.is_dir():
            return _FOLDERS
        is_file = entry.is_file()
    except OSError:  # links in a circle
        is_file = False
    if not is_file:
        return _DEAD_LINKS if not os.path.exists(entry.path) else "special files"
    suffix = os.path.splitext(name)[1]
    return _IMAGES if suffix in _SUFFIXES else printable(suffix) or "other files"


def _is_dead_image(entry: os.DirEntry[str], kind: str) -> bool:
    return kind == _DEAD_LINKS and entry.name.lower().endswith(_SUFFIXES)


def _classes(folder: Path, entries: Iterable[os.DirEntry[str]]) -> tuple[dict[str, Path], Counter[str]]:
    """The folder of each class by its name, in the order of the labels, and how many other entries there are of each kind."""
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
            f"{folder} holds no class folders; expected {folder}/<class>/<image>.jpg or .png. (Test images without classes "
            f"cannot be measured; move such a folder away, and a part of the training images is held out)"
        )
    return dict(sorted(classes.items())), ignored


def class_name(folder: str) -> str:
    """The name of a class from that of its folder: the same in every locale, and printable.

    Bytes that are not UTF-8 are escaped; composed and decomposed letters, which file systems exchange, are one name.
    """
    return printable(unicodedata.normalize("NFC", os.fsencode(folder).decode("utf-8", "backslashreplace")))


def fits_class(name: str) -> bool:
    """Whether a class of this name can have a folder that :func:`scan` takes for it."""
    hidden = name.startswith(".") or name.lower() in _SYSTEM
    return not hidden and "/" not in name and "\0" not in name and 0 < len(os.fsencode(name)) <= 255


def _list(folder: Path, classes: Mapping[str, Path], class_names: tuple[str, ...], ignored: Counter[str]) -> Listing:
    """The images of some classes; a label is the place in ``class_names``. ``ignored`` counts what lies beside them."""
    paths: list[Path] = []
    counts: list[int] = []
    dead_links: list[str] = []
    for place in classes.values():
        kinds: Counter[str] = Counter()
        images: list[Path] = []
        for entry in _entries(place):
            kind = _kind(entry)
            if kind == _IMAGES:
                images.append(Path(entry.path))
                continue
            kinds[kind] += 1
            if _is_dead_image(entry, kind):
                dead_links.append(printable(entry.path))
        if not images:
            raise RequestError(_empty(place, kinds))
        ignored += kinds
        paths += images
        counts.append(len(images))
    order = {name: label for label, name in enumerate(class_names)}
    labels = np.repeat([order[name] for name in classes], counts).astype(np.int32)
    return Listing(tuple(paths), labels, folder, ignored, tuple(dead_links))


def _empty(place: Path, kinds: Counter[str]) -> str:
    """What is wrong with a class folder without images."""
    found = f", only {counted(kinds)}" if kinds else ""
    message = f"{place} holds no .jpg, .jpeg or .png file{found}; add some or remove it"
    if kinds[_FOLDERS]:
        message += f". Images must lie in the folder of their class itself; is data.root {place} meant?"
    return message


def counted(kinds: Mapping[str, int]) -> str:
    """Numbers of things by kind, the most frequent first: ``3 .webp, 1 folder``."""
    return ", ".join(
        f"{count} {kind if count > 1 or kind.startswith('.') else kind.removesuffix('s')}"
        for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    )
