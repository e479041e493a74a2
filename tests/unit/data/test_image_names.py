"""Names from the command line or standard input are expanded to files, in order."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from vggdist.config.errors import RequestError
from vggdist.data.image_names import files, read_names


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def found(*names: Path | str, patterns: bool = True) -> list[str]:
    return [str(one) for one in files(map(str, names), patterns)]


def test_names_keep_their_order_and_are_not_opened(tmp_path: Path) -> None:
    names = [str(tmp_path / "b.png"), str(tmp_path / "no such.txt"), str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    touch(tmp_path / "a.png", tmp_path / "b.png")
    assert found(*names) == names


def test_a_folder_is_all_of_its_images_at_any_depth_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = [tmp_path / "1.jpg", tmp_path / "B" / "2.PNG", tmp_path / "B" / "deep" / "3.jpeg", tmp_path / "a.JPG"]
    touch(*images, tmp_path / "notes.txt", tmp_path / ".hidden" / "4.png", tmp_path / ".5.png")
    assert found(tmp_path) == [str(path) for path in images]


def test_links_are_followed_once_and_one_to_nothing_is_named(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "1.png", tmp_path / "elsewhere" / "2.png")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "elsewhere")
    inside = tmp_path / "in"
    assert found(inside) == [str(inside / name) for name in ("1.png", "gone.png", "other/2.png")]


def test_a_pattern_is_what_it_matches_in_sorted_order(tmp_path: Path) -> None:
    touch(tmp_path / "b.png", tmp_path / "a.png", tmp_path / "c.jpg", tmp_path / "deep" / "er" / "d.png")
    assert found(tmp_path / "*.png") == [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert found(tmp_path / "**" / "*.png")[-1] == str(tmp_path / "deep" / "er" / "d.png")
    assert found(tmp_path / "*.webp") == [str(tmp_path / "*.webp")]  # which does not exist


def test_a_name_with_the_characters_of_a_pattern_is_a_name_where_it_exists(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].png", tmp_path / "a1.png")
    assert found(tmp_path / "a[1].png") == [str(tmp_path / "a[1].png")]
    assert found(tmp_path / "*.png", patterns=False) == [str(tmp_path / "*.png")]


def test_a_folder_without_images_and_one_that_cannot_be_read_are_errors_in_their_place(tmp_path: Path) -> None:
    touch(tmp_path / "empty" / "notes.txt", tmp_path / "a.png")
    first, second = files([str(tmp_path / "empty"), str(tmp_path / "a.png")])
    assert isinstance(first, RequestError) and "empty has no .jpg, .jpeg or .png file" in str(first)
    assert second == tmp_path / "a.png"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    touch(tmp_path / "locked" / "1.png", tmp_path / "z.png")
    (tmp_path / "locked").chmod(0)
    try:
        first, second = files([str(tmp_path)])
    finally:
        (tmp_path / "locked").chmod(0o700)
    assert isinstance(first, RequestError) and "locked cannot be read" in str(first) and second == tmp_path / "z.png"


class Dribble(io.BytesIO):
    """A pipe that returns three bytes at a time."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(3)


@pytest.mark.parametrize(
    ("content", "separator", "names"),
    [
        (b"first.png\n\nse cond.png\r\nlast", b"\n", ["first.png", "se cond.png", "last"]),
        (b"a\nb.png\0c\r\0", b"\0", ["a\nb.png", "c\r"]),
        (b"\xff.png\n", b"\n", [os.fsdecode(b"\xff.png")]),
        (b"", b"\n", []),
    ],
)
def test_names_of_a_stream_wherever_it_is_cut(content: bytes, separator: bytes, names: list[str]) -> None:
    for stream in (io.BytesIO(content), Dribble(content)):
        assert list(read_names(stream, separator)) == names


def test_a_name_arrives_before_the_stream_ends() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"first.png\nsec")
    with open(reading, "rb") as stream:
        names = read_names(stream, b"\n")
        assert next(names) == "first.png"
        os.write(writing, b"ond.png")
        os.close(writing)
        assert list(names) == ["second.png"]


def test_a_stream_of_something_else_is_refused() -> None:
    with pytest.raises(RequestError, match="not a list of names: one has more than 65536 bytes"):
        list(read_names(io.BytesIO(bytes(10**6)), b"\n"))
    closed = os.open(os.devnull, os.O_WRONLY)
    with open(closed, "rb", buffering=65536) as stream, pytest.raises(RequestError, match="standard input cannot be read"):
        list(read_names(stream, b"\n"))
