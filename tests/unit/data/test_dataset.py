"""Each data set is loaded as parts of the right shape, the same on every rank."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from vggdist.config.data_sets import DATA_SETS
from vggdist.config.errors import RequestError
from vggdist.config.images import DataConfig
from vggdist.data import download, readers
from vggdist.data.data_shape import data_shape
from vggdist.data.dataset import ArraySource, load, load_part
from vggdist.data.decode import convert_channels
from vggdist.data.readers import held_out_split


def _write_mnist(folder: Path) -> None:
    folder.mkdir(parents=True)
    for part, count in (("train", 6), ("t10k", 3)):
        shape = np.array((count, 28, 28), ">u4").tobytes()
        pixels = np.arange(count * 784).astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + shape + pixels)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + shape[:4] + bytes(range(count)))


def test_digits_are_split_completely_and_scaled_to_the_whole_range() -> None:
    data = load(DataConfig(), seed=0)
    assert isinstance(data.train, ArraySource) and isinstance(data.test, ArraySource)
    assert len(data.train) + len(data.test) == 1797 and data.train.image_shape == (8, 8, 1)
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int32
    assert (data.train.images.min(), data.train.images.max()) == (0, 255)
    assert data.train.class_names == tuple("0123456789")


def test_digits_are_those_that_scikit_learn_loads() -> None:
    data, found = load(DataConfig(), seed=3), load_digits()
    for source, part in zip((data.train, data.test), held_out_split(found.target, 0.2, 3), strict=True):
        assert isinstance(source, ArraySource)
        np.testing.assert_array_equal(source.labels, found.target[part])
        np.testing.assert_array_equal(source.images[..., 0], np.rint(found.images[part] * (255 / 16)))


def test_statistics_of_digits_are_those_of_its_pixels() -> None:
    data = load(DataConfig(), seed=0)
    pixels = np.concatenate([data.train.images, data.test.images]) / 255  # type: ignore[attr-defined]
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (data.mean[0], data.std[0])


def test_held_out_split_is_disjoint_stratified_and_covers_all() -> None:
    labels = np.repeat([3, 0, 7, 9], [1, 2, 50, 101])[np.random.default_rng(0).permutation(154)]
    train, test = held_out_split(labels, 0.2, seed=5)
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(154))
    assert {label: int((labels[test] == label).sum()) for label in (3, 0, 7, 9)} == {3: 0, 0: 1, 7: 10, 9: 20}


@pytest.mark.parametrize("share", [0.001, 0.999])
def test_held_out_split_leaves_one_of_each_class_in_each_part(share: float) -> None:
    labels = np.arange(40) % 4
    for part in held_out_split(labels, share, seed=0):
        assert set(labels[part]) == {0, 1, 2, 3}


def test_held_out_split_is_a_function_of_the_seed() -> None:
    labels = np.arange(100) % 4
    first, again, other = (held_out_split(labels, 0.25, seed)[1] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_synthetic_images_are_a_function_of_the_seed_and_show_their_class() -> None:
    config = DataConfig(name="synthetic", synthetic_samples=400, synthetic_classes=4, image_size=20, channels=1)
    data, again, other = (load(config, seed) for seed in (0, 0, 1))
    train, test = data.train, data.test
    assert isinstance(train, ArraySource) and isinstance(test, ArraySource)
    assert train.images.shape == (400, 20, 20, 1) and len(test) == 100
    assert np.array_equal(train.images, again.train.images)  # type: ignore[attr-defined]
    assert not np.array_equal(train.images, other.train.images)  # type: ignore[attr-defined]
    means = np.stack([train.images[train.labels == label].mean(0) for label in range(4)])
    distance = ((test.images[:, None] - means) ** 2).sum((2, 3, 4))
    assert np.array_equal(distance.argmin(1), test.labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_and_statistics_follow_the_request(tmp_path: Path, channels: int) -> None:
    _write_mnist(tmp_path / "mnist")
    data = load(DataConfig(name="mnist", root=str(tmp_path), channels=channels), seed=0)  # type: ignore[arg-type]
    assert data.train.image_shape == (28, 28, channels) and data.train.channels == channels
    assert data.mean == (0.1307,) * channels and data.std == (0.3081,) * channels
    assert np.ptp(data.train.read(2), axis=-1).max() == 0


def test_grey_of_an_array_is_the_grey_that_pillow_makes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), np.uint8)
    pillow = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in pixels])
    np.testing.assert_array_equal(convert_channels(pixels, 1)[..., 0], pillow)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist"])
def test_missing_files_are_named_with_the_way_to_get_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        load(DataConfig(name=name, root=str(tmp_path)), seed=0)  # type: ignore[arg-type]
    for part in (str(tmp_path), " is missing", download.PUBLISHERS[name].url, "--data.download true"):
        assert part in str(caught.value)


def test_only_missing_files_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(name: str, root: Path) -> None:
        fetched.append(name)
        shutil.copytree(tmp_path / "published", root / "mnist")

    _write_mnist(tmp_path / "published")
    monkeypatch.setattr(download, "fetch", fetch)
    config = DataConfig(name="mnist", root=str(tmp_path / "root"), download=True)
    assert [len(load(config, seed=0).train) for _ in range(2)] == [6, 6]
    assert fetched == ["mnist"]


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_entry_of_a_data_set_is_complete(name: str) -> None:
    info = DATA_SETS[name]
    assert callable(readers.LOADERS[name]) and info.text
    assert len(info.mean) == len(info.std) in (1, info.channels) and all(0 < value < 1 for value in (*info.mean, *info.std))
    seen = data_shape(DataConfig(name=name))  # type: ignore[arg-type]
    assert (seen.image_size, seen.channels, seen.num_classes) == (info.image_size, info.channels, info.num_classes)


def test_validation_is_a_share_of_each_class_of_the_training_set_and_the_test_set_stays() -> None:
    whole, data = load(DataConfig(), 0), load(DataConfig(validation=0.25), 0)
    assert isinstance(data.train, ArraySource) and isinstance(data.validation, ArraySource)
    assert isinstance(whole.train, ArraySource)
    both = np.concatenate([data.train.images, data.validation.images])
    assert sorted(image.tobytes() for image in both) == sorted(image.tobytes() for image in whole.train.images)
    counts = np.bincount(whole.train.labels)
    np.testing.assert_array_equal(np.bincount(data.validation.labels), np.rint(counts * 0.25))
    assert whole.validation is None and data.identity["test"] == whole.identity["test"]
    assert data.identity["validation"]["images"] == len(data.validation)


def test_a_part_alone_is_what_a_training_makes_of_it() -> None:
    config, names = DataConfig(validation=0.25), tuple("0123456789")
    data = load(config, 3)
    for part, trained_on in data.parts.items():
        alone = load_part(config, 3, part, names)
        assert isinstance(alone, ArraySource) and isinstance(trained_on, ArraySource)
        np.testing.assert_array_equal(alone.images, trained_on.images)
        np.testing.assert_array_equal(alone.labels, trained_on.labels)


def test_a_validation_part_that_there_is_not_cannot_be_measured() -> None:
    with pytest.raises(RequestError, match="data.validation is 0, so there is no validation set; set it"):
        load_part(DataConfig(), 0, "validation", tuple("0123456789"))


def test_validation_of_one_image_a_class_is_refused(tmp_path: Path) -> None:
    _write_mnist(tmp_path / "mnist")
    with pytest.raises(RequestError, match="data.validation 0.1 holds out no image: each class has one"):
        load(DataConfig(name="mnist", root=str(tmp_path), validation=0.1), 0)


def test_a_part_alone_needs_the_files_of_that_part_alone(tmp_path: Path) -> None:
    _write_mnist(tmp_path / "mnist")
    for path in (tmp_path / "mnist").glob("train-*"):
        path.unlink()
    config, names = DataConfig(name="mnist", root=str(tmp_path)), tuple("0123456789")
    part = load_part(config, 0, "test", names)
    assert part.labels.tolist() == [0, 1, 2]
    with pytest.raises(RequestError, match="train-images-idx3-ubyte"):
        load_part(config, 0, "train", names)


def test_labels_of_a_part_alone_refer_to_the_network_s_classes(tmp_path: Path) -> None:
    for name in ("bee", "cat"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "test" / name / "1.png")
    config = DataConfig(name="folder", root=str(tmp_path))
    part = load_part(config, 0, "test", ["cat", "ant", "bee"])
    assert part.labels.tolist() == [2, 0] and part.class_names == ("cat", "ant", "bee")
    expected = "the data set has 1 classes that the network does not have: bee; the network has cat, ant"
    with pytest.raises(RequestError, match=expected):
        load_part(config, 0, "test", ["cat", "ant"])


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_without_parts_is_measured_whole_where_it_is_another_s(tmp_path: Path, whole: bool) -> None:
    for number in range(10):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), number).save(path)
    config = DataConfig(name="folder", root=str(tmp_path), held_out=0.2)
    assert len(load_part(config, 0, "test", "ab", whole)) == (10 if whole else 2)


@pytest.mark.skipif("VGGDIST_TEST_DATA" not in os.environ, reason="VGGDIST_TEST_DATA names no folder of real images")
def test_cifar10_as_a_folder_has_the_published_statistics(tmp_path: Path) -> None:
    with tarfile.open(Path(os.environ["VGGDIST_TEST_DATA"]) / "cifar10-jpeg.tar.xz") as archive:
        archive.extractall(tmp_path, members=_every_tenth(archive), filter="data")
    root = next(path.parent for path in tmp_path.rglob("train"))
    train = load(DataConfig(name="folder", root=str(root)), seed=0).train
    assert isinstance(train, ArraySource) and len(train.class_names) == 10 and train.image_shape == (32, 32, 3)
    np.testing.assert_allclose(train.images.mean((0, 1, 2)) / 255, DATA_SETS["cifar10"].mean, atol=0.01)
    np.testing.assert_allclose(train.images.std((0, 1, 2)) / 255, DATA_SETS["cifar10"].std, atol=0.01)


def _every_tenth(archive: tarfile.TarFile) -> list[tarfile.TarInfo]:
    return [member for member in archive if member.isfile()][::10]
