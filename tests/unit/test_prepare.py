"""Images are converted to records and back; interrupted calls are resumed; damaged images are reported."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.launching import DEADLINE
from vggdist.config.images import DataConfig
from vggdist.data.dataset import load
from vggdist.data.record_reader import RecordReader
from vggdist.preparation import record_writer
from vggdist.prepare import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes with six training images and one test image each."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("val", 1)):
        for name in ("cat", "dog"):
            for number in range(count):
                path = tmp_path / "source" / part / name / f"{number}.{'png' if number == 1 else 'jpg'}"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.integers(0, 256, (60 + number, 80, 3), np.uint8)).save(path)
    return tmp_path / "source"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def _report(target: Path) -> dict:
    return json.loads((target / "prepare.json").read_text())


def _contents(folder: Path) -> dict[str, bytes]:
    """All files except those in ``.prepare``."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in paths if path.parts[0] != ".prepare"}


def test_a_folder_becomes_records_that_train_as_it_does(source: Path, target: Path) -> None:
    assert main([str(source), str(target)]) == 0
    folder = load(DataConfig(name="folder", root=str(source)), seed=0)
    records = load(DataConfig(name="records", root=str(target)), seed=0)
    assert records.train.class_names == ("cat", "dog")
    for ours, theirs in ((records.train, folder.train), (records.test, folder.test)):
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        for index in range(len(ours)):
            np.testing.assert_array_equal(ours.read(index), theirs.read(index))
    assert _report(target)["parts"]["train"] == {"written": 12, "left_out": []}
    names = {"train.rec", "train.idx", "val.rec", "val.idx", "test.rec", "test.idx", "classes.txt", "prepare.json", ".prepare"}
    assert {path.name for path in target.iterdir()} <= names
    assert not {path.suffix for path in (target / ".prepare").iterdir()} & {".rec", ".idx", ".json", ".tmp"}


def test_bytes_are_passed_through_and_come_back(source: Path, target: Path, tmp_path: Path) -> None:
    assert main([str(source), str(target)]) == 0
    assert main([str(target), str(tmp_path / "back"), "--to", "folder"]) == 0
    before = [path.read_bytes() for path in sorted((source / "train").rglob("*.*"))]
    after = [path.read_bytes() for path in sorted((tmp_path / "back" / "train").rglob("*.*"))]
    assert after == before
    assert sorted(path.name for path in (tmp_path / "back" / "test").iterdir()) == ["cat", "dog"]


def test_the_short_side_is_scaled_down_and_never_up(source: Path, target: Path) -> None:
    Image.new("RGB", (300, 20)).save(source / "train" / "cat" / "0.jpg")
    assert main([str(source), str(target), "--short-side", "32", "--quality", "80"]) == 0
    data = load(DataConfig(name="records", root=str(target)), seed=0)
    assert data.train.read(0).shape == (20, 300, 3) and data.train.read(2).shape == (32, 41, 3)
    assert RecordReader(target / "train.rec").read(1).content.startswith(b"\xff\xd8")  # the PNG, too


@pytest.mark.parametrize("columns", [2, 3])
def test_a_list_file_says_which_images_and_classes(source: Path, target: Path, columns: int) -> None:
    rows = [("train/dog/3.jpg", "dog", 1), ("train/cat/0.jpg", "cat", 0), ("val/cat/0.jpg", "cat", 0)]
    lines = [f"{path}\t{name}" if columns == 2 else f"{n}\t{label}.0\t{path}" for n, (path, name, label) in enumerate(rows)]
    (source / "images.lst").write_text("\n".join(lines) + "\n")
    assert main([str(source / "images.lst"), str(target)]) == 0
    reader = RecordReader(target / "train.rec")
    assert reader.labels()[0].tolist() == [1, 0, 0]
    assert reader.read(0).content == (source / "train/dog/3.jpg").read_bytes()
    assert (target / "classes.txt").read_text().split("\n")[:2] == (["cat", "dog"] if columns == 2 else ["class 0", "class 1"])


def test_damaged_images_are_left_out_and_reported_or_end_the_work(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = source / "train" / "dog" / "2.jpg"
    damaged.write_bytes(damaged.read_bytes()[:700])
    assert main([str(source), str(target), "--damaged", "stop"]) == 2
    assert str(damaged) in capsys.readouterr().err and not (target / "train.rec").exists()
    assert main([str(source), str(target)]) == 0
    (entry,) = _report(target)["parts"]["train"]["left_out"]
    assert entry["image"] == str(damaged) and "700 bytes" in entry["reason"]
    assert RecordReader(target / "train.rec").keys.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11]


def test_a_record_without_a_header_is_left_out_and_reported_too(source: Path, target: Path, tmp_path: Path) -> None:
    assert main([str(source), str(target)]) == 0
    with (target / "train.rec").open("r+b") as file:
        file.seek(int(RecordReader(target / "train.rec").positions[3]))
        file.write(bytes(4))
    back = tmp_path / "back"
    assert main([str(target), str(back), "--to", "folder", "--damaged", "stop"]) == 2 and not back.exists()
    for _ in range(2):  # the second call finds all files and has the same report
        assert main([str(target), str(back), "--to", "folder"]) == 0
        (entry,) = _report(back)["parts"]["train"]["left_out"]
        assert entry["image"] == f"{target / 'train.rec'} key 3" and "does not start with a record header" in entry["reason"]
    assert len(list((back / "train").rglob("*.*"))) == 11 == _report(back)["parts"]["train"]["written"]


def test_an_image_that_was_mended_is_not_taken_for_done(source: Path, target: Path) -> None:
    damaged = source / "train" / "dog" / "2.jpg"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:700])
    assert main([str(source), str(target)]) == 0
    damaged.write_bytes(whole)
    assert main([str(source), str(target)]) == 0
    assert len(RecordReader(target / "train.rec")) == 12


@pytest.mark.parametrize("cut", [(0, 0), (0, 1), (3, 0), (1, 3), (400, 0), (7001, 1)])
def test_parts_of_any_length_are_continued_to_the_same_files(
    source: Path, target: Path, tmp_path: Path, cut: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "train" / "cat" / "4.jpg").write_bytes(b"no image")
    assert main([str(source), str(target)]) == 0

    class Killed(BaseException):
        pass

    made = []

    def killed_at_the_ninth(record: object) -> None:
        made.append(record)
        if len(made) == 9:
            raise Killed

    again, write = tmp_path / "again", record_writer.RecordWriter.write
    with monkeypatch.context() as patched:
        patched.setattr(
            record_writer.RecordWriter, "write", lambda self, record: (killed_at_the_ninth(record), write(self, record))
        )
        with pytest.raises(Killed):
            main([str(source), str(again)])
    assert not (again / "train.rec").exists()
    for name, lost in zip(("train.rec", "train.idx"), cut):
        path = again / ".prepare" / name
        os.truncate(path, path.stat().st_size - lost)
    continued: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(
            record_writer.RecordWriter, "write", lambda self, record: (continued.append(record), write(self, record))
        )
        assert main([str(source), str(again)]) == 0
    expected, found = _contents(target), _contents(again)
    assert found == expected and len(continued) < 13 - (0 if cut[0] > 7000 else 4)


def test_a_killed_process_leaves_nothing_under_the_final_names_and_is_continued(source: Path, target: Path) -> None:
    for number in range(400):
        os.link(source / "train/cat/0.jpg", source / f"train/cat/copy{number}.jpg")
    command = [sys.executable, "-m", "vggdist.prepare", str(source), str(target), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + DEADLINE
    part = target / ".prepare" / "train.idx"
    while time.monotonic() < until and process.poll() is None and not (part.exists() and part.stat().st_size > 50):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (target / "train.rec").exists():  # unless the command was faster
        assert not (target / "train.idx").exists()
    assert main([str(source), str(target)]) == 0
    assert len(RecordReader(target / "train.rec")) == 412 and main(["--check", str(target)]) == 0


def test_a_target_that_another_process_prepares_is_refused_until_that_one_ends(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = "import sys, pathlib; from vggdist.preparation.output_folder import OutputFolder\n"
    hold += "with OutputFolder(pathlib.Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, str(target)], **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "held\n"
        assert main([str(source), str(target)]) == 2
        assert f"{target} is in use by process {first.pid} on " in capsys.readouterr().err
        assert [path.name for path in target.rglob("*")] == [".prepare", "lock"], "something was written"
        first.kill()
    assert main([str(source), str(target)]) == 0


def test_check_names_the_damaged_keys_and_files(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), str(target)]) == 0
    assert main(["--check", str(target / "train.rec")]) == 0 and main(["--check", str(source)]) == 0
    reader = RecordReader(target / "train.rec")
    with (target / "train.rec").open("r+b") as file:
        file.seek(int(reader.positions[3]))
        file.write(b"\0")
        file.seek(int(reader.positions[7]) + 34)
        file.write(bytes(100))
    (source / "train" / "dog" / "5.jpg").write_bytes(b"")
    capsys.readouterr()
    assert main(["--check", str(target)]) == 1
    printed = capsys.readouterr().out
    assert "train.rec key 3 " in printed and "train.rec key 7 " in printed and "14 images, 2 damaged" in printed
    assert main(["--check", str(source)]) == 1
    assert "train/dog/5.jpg" in capsys.readouterr().out


def test_a_wrong_request_is_refused_with_code_2(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], [str(source)], [str(source), str(target), "--quality", "101"], ["--check", "a", "b"]):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
    assert main([str(source / "absent"), str(target)]) == 2 and "absent is not a folder" in capsys.readouterr().err
    (source / "wrong.lst").write_text("a\tb\tc\td\n")
    assert main([str(source / "wrong.lst"), str(target)]) == 2 and "line 1 of" in capsys.readouterr().err


# Files of others in the target


@pytest.mark.parametrize(
    "name", ["train.rec", "train.idx", "test.rec", "test.idx", "classes.txt", "prepare.json", "val.rec", "mine.rec"]
)
@pytest.mark.parametrize("kind", ["file", "link", "broken symlink"])
def test_a_file_that_is_not_ours_is_neither_replaced_nor_removed_nor_mixed_with_ours(
    source: Path, target: Path, tmp_path: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target.mkdir()
    mine = target / name if kind == "file" else tmp_path / "mine"
    if kind != "broken symlink":
        mine.write_text("precious")
    if kind != "file":
        (target / name).symlink_to(mine)
    assert main([str(source), str(target)]) == 2
    assert f"{target / name} " in capsys.readouterr().err
    assert kind == "broken symlink" or mine.read_text() == "precious"
    assert sorted(path.name for path in target.iterdir()) == [".prepare", name]


def test_what_was_changed_since_we_wrote_it_is_not_ours_any_more(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(source), str(target)]) == 0
    (target / "classes.txt").write_text("Katze\nHund\n")
    assert main([str(source), str(target), "--quality", "50"]) == 2
    assert "classes.txt was not written by vggdist prepare, or was changed since" in capsys.readouterr().err
    assert (target / "classes.txt").read_text() == "Katze\nHund\n"


def test_our_own_records_are_replaced_by_another_request_when_it_is_done(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main([str(source), str(target)]) == 0
    before = _contents(target)
    with monkeypatch.context() as patched:
        write, written = record_writer.RecordWriter.write, []

        def killed_in_the_second_part(writer: record_writer.RecordWriter, record: record_writer.ImageRecord) -> None:
            written.append(record)
            if len(written) > 12:
                raise KeyboardInterrupt
            write(writer, record)

        patched.setattr(record_writer.RecordWriter, "write", killed_in_the_second_part)
        with pytest.raises(KeyboardInterrupt):
            main([str(source), str(target), "--quality", "50"])
    assert _contents(target) == before
    (source / "val" / "dog" / "0.jpg").write_bytes(b"")
    assert main([str(source), str(target), "--quality", "50"]) == 0
    assert _contents(target)["train.rec"] != before["train.rec"] and len(RecordReader(target / "test.rec")) == 1


def test_a_part_of_an_earlier_request_is_not_mixed_with_another_one(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mode in ("records", "folder"):
        assert main([str(source), str(target / mode), "--to", mode]) == 0
        before = _contents(target / mode)
        shutil.rmtree(source / "val")
        assert main([str(source), str(target / mode), "--to", mode]) == 2
        shutil.copytree(source / "train", source / "val")
        assert "is of another request and would be part of the data set" in capsys.readouterr().err
        assert _contents(target / mode) == before


@pytest.mark.parametrize("name", ["train/cat/00000000.jpg", "train/cat/mine.jpg", "train/notes.txt", "test/emu/0.jpg"])
def test_images_that_are_not_ours_stay_as_they_are(
    source: Path, target: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (target / name).parent.mkdir(parents=True)
    (target / name).write_text("precious")
    assert main([str(source), str(target), "--to", "folder"]) == 2
    assert str(target / name) in capsys.readouterr().err
    assert (target / name).read_text() == "precious"


def test_images_that_were_added_to_ours_stay_when_the_work_goes_on(source: Path, target: Path) -> None:
    assert main([str(source), str(target), "--to", "folder"]) == 0
    (target / "train" / "cat" / "mine.jpg").write_text("precious")
    (target / "train" / "cat" / "00000000.jpg").write_text("changed")
    (target / "train" / "dog" / "00000008.jpg").unlink()
    assert main([str(source), str(target), "--to", "folder"]) == 0
    assert (target / "train" / "cat" / "mine.jpg").read_text() == "precious"
    assert (target / "train" / "cat" / "00000000.jpg").read_text() == "changed"
    assert (target / "train" / "dog" / "00000008.jpg").stat().st_size > 1000


def test_links_in_place_of_our_own_files_are_not_followed(source: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "folder").mkdir()
    (target / ".prepare").mkdir(parents=True)
    (target / ".prepare" / "lock").symlink_to(tmp_path / "mine")
    assert main([str(source), str(target)]) == 1
    shutil.rmtree(target / ".prepare")
    (target / ".prepare").symlink_to(tmp_path / "folder")
    assert main([str(source), str(target)]) == 2
    assert (tmp_path / "mine").read_text() == "precious" and not list((tmp_path / "folder").iterdir())


# Faults


def test_a_full_disk_is_named_by_the_folder_and_the_work_is_continued(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = record_writer.RecordWriter.write, []

    def full(self: record_writer.RecordWriter, record: object) -> None:
        written.append(record)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # without a file name, as file.write() raises it
        write(self, record)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(record_writer.RecordWriter, "write", full)
        assert main([str(source), str(target)]) == 1
    assert f"vggdist: {target}: No space left on device; run the same command again" in capsys.readouterr().err
    assert main([str(source), str(target)]) == 0
    assert len(RecordReader(target / "train.rec")) == 12


@pytest.mark.parametrize("content", [b"", b"\0" * 50, b"[1]\n", b'{"request": 5}\n', b'{"request"', b"\xff\n"])
@pytest.mark.parametrize("name", ["train.json", "train.done", "written"])
def test_what_a_power_failure_leaves_of_our_own_files_makes_the_work_start_again(
    source: Path, target: Path, name: str, content: bytes
) -> None:
    (target / ".prepare").mkdir(parents=True)
    (target / ".prepare" / name).write_bytes(content)
    assert main([str(source), str(target)]) == 0
    assert len(RecordReader(target / "train.rec")) == 12 and main([str(source), str(target)]) in (0, 2)


def test_names_that_are_not_utf8_go_into_records_and_out_again(
    source: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("train", "val"):
        os.rename(source / part / "dog", os.fsencode(source / part) + b"/h\xfcndchen\n")
    with open(os.fsencode(source / "train" / "cat") + b"/caf\xe9.jpg", "wb") as file:
        file.write(b"no image")
    assert main([str(source), str(target)]) == 0 and main([str(target), str(tmp_path / "back"), "--to", "folder"]) == 0
    assert (target / "classes.txt").read_text() == "cat\nh\\xfcndchen\\n\n"
    assert load(DataConfig(name="folder", root=str(tmp_path / "back")), seed=0).train.class_names[1] == r"h\xfcndchen\n"
    assert r"caf\xe9.jpg" in _report(target)["parts"]["train"]["left_out"][0]["image"]
    assert main(["--check", str(source)]) == 1 and r"caf\xe9.jpg (8 bytes)" in capsys.readouterr().out


# List files


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0\t0.5\ta"], "line 1 of .* has the label '0.5'; expected an integer from 0 on"),
        (["0\t1\ta", "1\t-1\tb"], "line 2 of .* has the label '-1'"),
        (["0\tinf\ta"], "'inf'"),
        (["0\tnan\ta"], "'nan'"),
        (["0\t1e3\ta"], "'1e3'"),
        (["0\t1_0\ta"], "'1_0'"),
        (["0\t" + "9" * 5000 + "\ta"], "'9999"),
        (["0\t16777216\ta"], "'16777216'"),
        (["0\t0\ta", "1\t3000000\tb"], "2 images with labels up to 3000000, so most of the network's 3000001 outputs"),
        (["0\t1\t2\ta"], "line 1 of .* has 4 columns; .*several labels per image are not supported"),
        (["a\tcat", "0\t1\ta"], "line 2 of .* has 3 columns"),
        (["a\tcat", "\tdog"], "line 2 of .* has an empty column"),
        (["a\t"], "line 1 of .* has an empty column"),
        (["", "  "], "lists no image"),
        (["a\0b\tcat", "c\tdog"], "it is not a file name"),
        (["gone.jpg\tcat"], "gone.jpg cannot be read: No such file"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    source: Path, target: Path, lines: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "images.lst").write_text("\n".join(lines))
    assert main([str(source / "images.lst"), str(target)]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and "Traceback" not in error


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["images.lst", "train/cat/0.jpg"])
def test_a_fifo_is_named_and_blocks_nothing(source: Path, target: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "images.lst").write_text("train/cat/0.jpg\tcat\n")
    (source / name).unlink()
    os.mkfifo(source / name)
    assert main([str(source / "images.lst"), str(target)]) == 2
    assert f"{name} cannot be read: it is a FIFO" in capsys.readouterr().err


def test_a_list_may_be_of_any_system_and_name_files_that_are_not_utf8(source: Path, target: Path) -> None:
    name = b"caf\xe9.jpg"
    os.rename(source / "train" / "cat" / "0.jpg", os.fsencode(source) + b"/" + name)
    content = b"\xef\xbb\xbftrain/dog/3.jpg\tdo\xe7\r\n\r\n" + name + b"\tc\xc3\xa4t\r\n"
    (source / "images.lst").write_bytes(content)
    assert main([str(source / "images.lst"), str(target)]) == 0
    assert (target / "classes.txt").read_text() == "cät\ndo\\xe7\n"


def test_links_to_nothing_are_left_out_and_reported_or_end_the_work(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = source / "train" / "cat" / "9.jpg"
    link.symlink_to("gone.jpg")
    assert main([str(source), str(target), "--damaged", "stop"]) == 2
    assert f"{link} is a broken symlink" in capsys.readouterr().err
    assert main([str(source), str(target)]) == 0
    assert _report(target)["parts"]["train"]["left_out"] == [{"image": str(link), "reason": "it is a broken symlink"}]
    assert main(["--check", str(source)]) == 1
    assert f"{link}: it is a broken symlink" in capsys.readouterr().out


def test_check_finds_what_makes_a_data_set_unfit(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), str(target)]) == 0
    whole = (target / "train.idx").read_bytes()
    (target / "train.idx").write_bytes(b"".join(whole.splitlines(keepends=True)[:5]))
    capsys.readouterr()
    for path in (target, target / "train.rec"):
        assert main(["--check", str(path)]) == 1
        assert "train.idx lists 5 of at least 12 records" in capsys.readouterr().out
    (target / "train.idx").write_bytes(whole)
    (target / "classes.txt").write_text("cat\n")
    assert main(["--check", str(target)]) == 1
    assert "classes.txt has 1 class names, but a record has the label 1" in capsys.readouterr().out
    (target / "classes.txt").write_text("cat\ndog\nemu\n")
    assert main(["--check", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "train: 12 images in 2 classes, 6 of each; from " in printed
    assert "warning: the training set has no image of 1 class (emu)" in printed
    shutil.rmtree(source / "train" / "dog")
    shutil.rmtree(source / "val" / "dog")
    assert main(["--check", str(source)]) == 1
    assert "there is only one class, cat; a classifier needs at least two" in capsys.readouterr().out


def test_check_names_every_file_of_a_list_that_is_not_there(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (source / "images.lst").write_text("train/cat/0.jpg\tcat\ngone.jpg\tdog\nlost.jpg\tdog\n")
    assert main(["--check", str(source / "images.lst")]) == 1
    printed = capsys.readouterr().out
    assert "gone.jpg cannot be read" in printed and "lost.jpg cannot be read" in printed and "3 images, 2 damaged" in printed
    assert main(["--check", str(source / "absent.rec")]) == 2


def test_a_class_that_cannot_be_a_folder_is_refused(source: Path, target: Path, tmp_path: Path) -> None:
    assert main([str(source), str(target)]) == 0
    for name in ("a/b", ".hidden", "__MACOSX", "x" * 300, ".."):
        (target / "classes.txt").write_text(f"cat\n{name}\n")
        assert main([str(target), str(tmp_path / "back"), "--to", "folder"]) == 2
        assert not (tmp_path / "back" / "train").exists()
