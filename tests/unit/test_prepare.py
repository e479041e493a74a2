"""Images go into records and back; an interrupted call is continued; what is damaged is named and reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vggdist.config.images import DataConfig
from vggdist.data import recording
from vggdist.data.recordreader import RecordReader
from vggdist.data.sources import load
from vggdist.prepare import main


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two classes with six training photographs and one test image each."""
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
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
    assert not list(target.glob("*.part")) and not list(target.glob("*.tmp"))


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
    for _ in range(2):  # the second call finds everything there, and reports the same
        assert main([str(target), str(back), "--to", "folder"]) == 0
        (entry,) = _report(back)["parts"]["train"]["left_out"]
        assert entry["image"] == f"{target / 'train.rec'} key 3" and "does not begin as a record does" in entry["reason"]
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

    again, write = tmp_path / "again", recording.RecordWriter.write
    with monkeypatch.context() as patched:
        patched.setattr(
            recording.RecordWriter, "write", lambda self, record: (killed_at_the_ninth(record), write(self, record))
        )
        with pytest.raises(Killed):
            main([str(source), str(again)])
    assert not (again / "train.rec").exists()
    for name, lost in zip(("train.rec.part", "train.idx.part"), cut):
        os.truncate(again / name, (again / name).stat().st_size - lost)
    continued: list[object] = []
    with monkeypatch.context() as patched:
        patched.setattr(recording.RecordWriter, "write", lambda self, record: (continued.append(record), write(self, record)))
        assert main([str(source), str(again)]) == 0
    expected, found = _contents(target), _contents(again)
    assert found == expected and len(continued) < 13 - (0 if cut[0] > 7000 else 4)


def test_a_killed_process_leaves_nothing_under_the_final_names_and_is_continued(source: Path, target: Path) -> None:
    for number in range(400):
        os.link(source / "train/cat/0.jpg", source / f"train/cat/copy{number}.jpg")
    command = [sys.executable, "-m", "vggdist.prepare", str(source), str(target), "--threads", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    part = target / "train.idx.part"
    while time.monotonic() < until and process.poll() is None and not (part.exists() and part.stat().st_size > 50):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if not (target / "train.rec").exists():  # unless it was faster
        assert not (target / "train.idx").exists()
    assert main([str(source), str(target)]) == 0
    assert len(RecordReader(target / "train.rec")) == 412 and main(["--check", str(target)]) == 0


def test_a_target_that_another_process_prepares_is_refused_until_that_one_ends(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold = "import sys, pathlib; from vggdist.data.preparation import only_writer\n"
    hold += "with only_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold, str(target)], **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "held\n"
        assert main([str(source), str(target)]) == 2
        assert f"{target} is being prepared by process {first.pid} on " in capsys.readouterr().err
        assert [path.name for path in target.iterdir()] == [".lock"], "something was written"
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
    told = capsys.readouterr().out
    assert "train.rec key 3 " in told and "train.rec key 7 " in told and "14 images, 2 damaged" in told
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
