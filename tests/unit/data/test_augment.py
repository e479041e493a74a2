"""A batch is framed and augmented as asked, and what happens to a sample depends on (seed, epoch, sample) alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats  # type: ignore[import-untyped]

from vggdist.config.errors import RequestError
from vggdist.config.schema import AugmentConfig
from vggdist.data import augment, framing
from vggdist.data.augment import Batch, EvaluationView, TrainingView
from vggdist.data.sources import ArraySource

_SAMPLES = np.arange(12)
_MASK = np.ones(12, np.float32)
_EVERYTHING: dict[str, Any] = {
    "pad_crop": 2,
    "flip": True,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "cutout": 5,
    "mixup": 0.4,
}


@dataclass
class MixedSizes:
    """A source in which each image has a size of its own, as a folder of photographs has."""

    images: list[np.ndarray]
    labels: np.ndarray
    class_names: tuple[str, ...] = ("a", "b")
    image_shape: None = None

    @property
    def channels(self) -> int:
        return self.images[0].shape[2]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> np.ndarray:
        return self.images[index]


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)


def _one_size(samples: int = 40, side: int = 16, channels: int = 3) -> ArraySource:
    return ArraySource(_noise(samples, side, side, channels), np.arange(samples, dtype=np.int32), ("a",) * samples)


def _mixed_sizes(samples: int = 12, channels: int = 3) -> MixedSizes:
    images = [_noise(20 + 7 * number % 31, 20 + 11 * number % 37, channels) for number in range(samples)]
    return MixedSizes(images, np.arange(samples, dtype=np.int32) % 2)


def _training(source: Any, size: int = 16, seed: int = 3, **settings: Any) -> TrainingView:
    return TrainingView(source, AugmentConfig(**settings), size, seed, (9,) * source.channels)


def _assert_equal(batch: Batch, other: Batch) -> None:
    for name, value in vars(batch).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


# What is seen does not depend on how it is asked for


@pytest.mark.parametrize("source", [_one_size(), _mixed_sizes(), _mixed_sizes(channels=1)])
@pytest.mark.parametrize("random_crop", [False, True])
def test_a_sample_is_the_same_in_any_batch_on_any_rank(source: Any, random_crop: bool) -> None:
    view = _training(source, random_resized_crop=random_crop, **_EVERYTHING)
    whole = view.batch(5, _SAMPLES, _MASK)
    shuffled = np.random.default_rng(0).permutation(_SAMPLES)
    for part in (shuffled[:5], shuffled[5:], shuffled[:1], np.repeat(shuffled[:1], 3)):
        again = _training(source, random_resized_crop=random_crop, **_EVERYTHING).batch(5, part, _MASK[part])
        expected = Batch(**{name: value[part] for name, value in vars(whole).items()})
        _assert_equal(again, expected)


@pytest.mark.parametrize("change", [{"random_resized_crop": True}, *({key: _EVERYTHING[key]} for key in _EVERYTHING)])
def test_each_augmentation_changes_with_epoch_and_seed_and_leaves_the_source_alone(change: dict[str, Any]) -> None:
    source, untouched = _one_size(), _one_size().images
    first = _training(source, **change).batch(0, _SAMPLES, _MASK).images
    assert not np.array_equal(first, _training(source, **change).batch(1, _SAMPLES, _MASK).images)
    assert not np.array_equal(first, _training(source, seed=4, **change).batch(0, _SAMPLES, _MASK).images)
    np.testing.assert_array_equal(source.images, untouched)


def test_without_augmentation_a_batch_is_the_samples_themselves() -> None:
    source = _one_size()
    batch = _training(source).batch(0, _SAMPLES[::-1], _MASK)
    np.testing.assert_array_equal(batch.images, source.images[11::-1])
    np.testing.assert_array_equal(batch.labels, source.labels[11::-1])
    np.testing.assert_array_equal(batch.partners, batch.labels)
    np.testing.assert_array_equal(batch.weights, 1)
    assert not np.shares_memory(batch.images, source.images)


@pytest.mark.parametrize("source", [_one_size(), _mixed_sizes()])
@pytest.mark.parametrize("settings", [{}, {"random_resized_crop": True, **_EVERYTHING}])
def test_a_batch_has_the_types_that_the_device_expects(source: Any, settings: dict[str, Any]) -> None:
    batch = _training(source, size=10, **settings).batch(0, _SAMPLES, _MASK)
    types = {name: (value.dtype, value.shape) for name, value in vars(batch).items()}
    assert types == {
        "images": (np.uint8, (12, 10, 10, 3)),
        "labels": (np.int32, (12,)),
        "partners": (np.int32, (12,)),
        "weights": (np.float32, (12,)),
        "mask": (np.float32, (12,)),
        "samples": (np.int64, (12,)),
    }
    assert batch.images.flags.c_contiguous


def test_evaluation_sees_the_centre_and_none_of_the_augmentations() -> None:
    source = _mixed_sizes()
    config = AugmentConfig(random_resized_crop=True, **_EVERYTHING)
    batch = EvaluationView(source, config, 16).batch(_SAMPLES, _MASK)
    _assert_equal(batch, EvaluationView(source, AugmentConfig(), 16).batch(_SAMPLES, _MASK))
    _assert_equal(batch, _training(source).batch(7, _SAMPLES, _MASK))
    assert len(EvaluationView(source, config, 16)) == len(_training(source)) == 12


# Framing


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_and_centre_crop_are_pillows(channels: int) -> None:
    image = _noise(60, 43, channels)
    pillow = Image.fromarray(image.squeeze()).resize((24, 24 * 60 // 43), Image.Resampling.BILINEAR)
    expected = np.asarray(pillow.crop((2, 6, 22, 26))).reshape(20, 20, channels)  # 33 x 24: 6.5 rounds to 6
    source = MixedSizes([image], np.zeros(1, np.int32))
    for part in (source, _array(image)):
        batch = EvaluationView(part, AugmentConfig(resize=24), 20).batch(np.array([0]), _MASK[:1])
        np.testing.assert_array_equal(batch.images[0], expected)


def _array(image: np.ndarray) -> ArraySource:
    return ArraySource(image[None], np.zeros(1, np.int32), ("a",))


def test_images_that_already_have_the_scale_are_only_cropped() -> None:
    image = _noise(16, 20, 3)
    for source in (_array(image), MixedSizes([image], np.zeros(1, np.int32))):
        just_covered = EvaluationView(source, AugmentConfig(), 16).batch(np.array([0]), _MASK[:1]).images[0]
        cropped = EvaluationView(source, AugmentConfig(resize=16), 10).batch(np.array([0]), _MASK[:1]).images[0]
        np.testing.assert_array_equal(just_covered, image[:, 2:18])
        np.testing.assert_array_equal(cropped, image[3:13, 5:15])


def test_a_resize_below_the_image_size_names_both_keys() -> None:
    expected = r"augment\.resize .* 12 pixels.*data\.image_size 16"
    with pytest.raises(RequestError, match=expected):
        _training(_one_size(), resize=12)
    with pytest.raises(RequestError, match=expected):
        EvaluationView(_one_size(), AugmentConfig(resize=12), 16)


def test_random_crops_stay_inside_with_uniform_areas_and_log_uniform_ratios() -> None:
    config = AugmentConfig(crop_scale=(0.1, 0.5), crop_ratio=(0.5, 2.0))
    drawn = framing.crop_draws(0, 0, np.arange(3000))
    top, left, height, width = np.array([framing.random_box(600, 600, config, draws) for draws in drawn]).T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 600).all() and (left + width <= 600).all()
    areas, ratios = height * width / 600**2, width / height
    slack = 0.02  # sides are whole pixels
    assert 0.1 - slack < areas.min() and areas.max() < 0.5 + slack
    assert 0.5 - slack < ratios.min() and ratios.max() < 2 + slack
    assert stats.kstest(areas, stats.uniform(0.1, 0.4).cdf).pvalue > 0.01
    assert stats.kstest(np.log2(ratios), stats.uniform(-1, 2).cdf).pvalue > 0.01
    assert stats.kstest(top / (600 - height), "uniform").pvalue > 0.01
    assert abs(np.corrcoef(areas, ratios)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 401, (0, 194, 10, 13)), (401, 10, (194, 0, 13, 10)), (1, 1, (0, 0, 1, 1))]
)
def test_extreme_shapes_get_the_largest_central_crop(height: int, width: int, expected: tuple[int, ...]) -> None:
    config = AugmentConfig(crop_scale=(0.9, 1.0))
    for draws in framing.crop_draws(0, 0, np.arange(20)):
        assert framing.random_box(height, width, config, draws) == expected


def test_a_random_crop_is_pillows_resize_of_its_box() -> None:
    source, config = _mixed_sizes(), AugmentConfig(random_resized_crop=True)
    framed = _training(source, random_resized_crop=True).batch(2, _SAMPLES, _MASK).images
    for image, result, draws in zip(source.images, framed, framing.crop_draws(3, 2, _SAMPLES), strict=True):
        top, left, height, width = framing.random_box(image.shape[0], image.shape[1], config, draws)
        pillow = Image.fromarray(image).crop((left, top, left + width, top + height))
        np.testing.assert_array_equal(result, np.asarray(pillow.resize((16, 16), Image.Resampling.BILINEAR)))


# Augmentations


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_crop_is_a_slice_of_the_padded_image(channels: int) -> None:
    images = _noise(81, 6, 7, channels)
    tops, lefts = np.divmod(np.arange(81), 9)
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    for image, result, top, left in zip(padded, augment.pad_crop(images, 4, tops, lefts), tops, lefts, strict=True):
        np.testing.assert_array_equal(result, image[top : top + 6, left : left + 7])


def test_every_shift_of_pad_crop_is_equally_likely() -> None:
    marked = np.zeros((9000, 3, 3, 1), np.uint8)
    marked[:, 1, 1] = 255
    view = _training(ArraySource(marked, np.zeros(9000, np.int32), ("a",)), size=3, pad_crop=1)
    shifts = view.batch(0, np.arange(9000), np.ones(9000, np.float32)).images.sum(axis=0, dtype=np.int64) // 255
    assert stats.chisquare(shifts.ravel()).pvalue > 0.01


def test_half_of_the_images_are_mirrored() -> None:
    images = np.repeat(_noise(1, 4, 4, 3), 4000, axis=0)
    view = _training(ArraySource(images, np.zeros(4000, np.int32), ("a",)), size=4, flip=True)
    seen = view.batch(0, np.arange(4000), np.ones(4000, np.float32)).images
    mirrored = (seen == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (seen == images).all(axis=(1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 0.03


@pytest.mark.parametrize(
    ("change", "pillows"),
    [
        (augment.brightness, ImageEnhance.Brightness),
        (augment.contrast, ImageEnhance.Contrast),
        (augment.saturation, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_is_pillows_within_one(change: Callable[..., np.ndarray], pillows: Any, channels: int) -> None:
    factors = np.array([0.0, 0.3, 1.0, 1.6, 2.0])
    images = _noise(5, 16, 16, channels)
    for image, result, factor in zip(images, change(images, factors), factors, strict=True):
        expected = np.asarray(pillows(Image.fromarray(image.squeeze())).enhance(factor)).reshape(image.shape)
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_factors_fill_the_range_that_was_asked_for() -> None:
    images = np.full((2000, 1, 1, 1), 100, np.uint8)
    view = _training(ArraySource(images, np.zeros(2000, np.int32), ("a",)), size=1, brightness=0.4)
    seen = view.batch(0, np.arange(2000), np.ones(2000, np.float32)).images
    assert seen.min() == 60 and seen.max() == 140 and abs(seen.mean() - 100) < 2


@pytest.mark.parametrize("side", [1, 4, 5, 40])
def test_cutout_fills_a_square_around_its_centre(side: int) -> None:
    images = np.full((256, 16, 16, 3), 200, np.uint8)
    rows, columns = np.divmod(np.arange(256), 16)
    cut = (augment.cutout(images, side, rows, columns, np.array([1, 2, 3], np.uint8)) == (1, 2, 3)).all(axis=-1)
    first = np.arange(16) - side // 2
    covered = np.minimum(first + side, 16) - np.maximum(first, 0)  # rows or columns that a centre's square covers
    assert cut[np.arange(256), rows, columns].all()
    np.testing.assert_array_equal(cut.sum(axis=(1, 2)), covered[rows] * covered[columns])


def test_cutout_centres_lie_anywhere_and_take_the_mean_colour() -> None:
    source = ArraySource(np.zeros((4096, 8, 8, 3), np.uint8), np.zeros(4096, np.int32), ("a",))
    view = TrainingView(source, AugmentConfig(cutout=1), 8, 0, (7, 8, 9))
    total = view.batch(0, np.arange(4096), np.ones(4096, np.float32)).images.sum(axis=0, dtype=np.int64)
    assert (total * 8 == total[..., 1:2] * (7, 8, 9)).all()
    assert stats.chisquare(total[..., 0].ravel() / 7).pvalue > 0.01


def test_mixup_blends_a_sample_with_another_as_that_one_is_augmented_itself() -> None:
    source = _one_size()
    mixing = {key: value for key, value in _EVERYTHING.items() if key != "mixup"}
    alone = _training(source, **mixing).batch(4, np.arange(40), np.ones(40, np.float32)).images.astype(np.float64)
    batch = _training(source, **_EVERYTHING).batch(4, _SAMPLES, _MASK)  # labels are indices in this source
    weights = batch.weights[:, None, None, None]
    expected = weights * alone[_SAMPLES] + (1 - weights) * alone[batch.partners]
    assert np.abs(batch.images - expected).max() <= 0.5001
    np.testing.assert_array_equal(batch.labels, _SAMPLES)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_follow_beta_and_partners_come_from_the_whole_set(alpha: float) -> None:
    source = ArraySource(np.zeros((5000, 1, 1, 1), np.uint8), np.arange(5000, dtype=np.int32), ("a",) * 5000)
    batch = _training(source, size=1, mixup=alpha).batch(0, np.arange(5000), np.ones(5000, np.float32))
    assert abs(batch.weights.mean() - 0.5) < 0.02
    assert stats.kstest(batch.weights, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(batch.partners / 5000, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(batch.weights, batch.partners)[0, 1]) < 0.05


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 1000.0])
def test_mixup_weights_are_finite_for_any_alpha(alpha: float) -> None:
    weights = augment.mixup_weights(alpha, np.linspace(0, 1 - 2**-53, 1001))
    assert ((weights >= 0) & (weights <= 1)).all()


# Statistics


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("source", [_one_size(2500, 5), _one_size(2, 7, 1), _mixed_sizes(), _mixed_sizes(channels=1)])
def test_statistics_of_any_number_of_parts_are_numpys_over_all_pixels(source: Any, parts: int) -> None:
    pixels = np.concatenate([image.reshape(-1, source.channels) for image in source.images]) / 255
    mean, std = augment.statistics(sum(augment.value_counts(source, part, parts) for part in range(parts)))
    np.testing.assert_allclose(mean, pixels.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(axis=0), rtol=1e-12)


def test_statistics_refuse_a_channel_without_contrast() -> None:
    source = ArraySource(np.full((2, 3, 3, 1), 7, np.uint8), np.zeros(2, np.int32), ("a",))
    with pytest.raises(RequestError, match=r"augment\.normalize computed"):
        augment.statistics(augment.value_counts(source))
