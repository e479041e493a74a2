"""Batches are cropped and augmented as configured; the augmentation of a sample depends only on (seed, epoch, sample)."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats  # type: ignore[import-untyped]

from tests.images import MixedSizes, mixed_sizes, noise, one_size
from vggdist.config.errors import RequestError
from vggdist.config.images import AugmentConfig
from vggdist.data import crop_boxes
from vggdist.data.augment import AUGMENTATIONS, Batch, EvaluationView, TrainingView
from vggdist.data.dataset import ArraySource
from vggdist.data.randomness import Draws
from vggdist.data.resize_crop import short_side
from vggdist.data.shift_flip import with_views

_SAMPLES = np.arange(12)
_MASK = np.ones(12, np.float32)
_EVERYTHING: dict[str, Any] = {
    "pad_crop": 2,
    "flip": True,
    "randaugment": (2, 9),
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "lighting": 0.1,
    "cutout": 5,
    "erasing": 0.5,
    "mixup": 0.4,
    "cutmix": 1.0,
}
_GREY_TOO = {key: value for key, value in _EVERYTHING.items() if key != "lighting"}


def _training(source: Any, size: int = 16, seed: int = 3, **settings: Any) -> TrainingView:
    return TrainingView(source, AugmentConfig(**settings), size, seed, (9,) * source.channels)


def _assert_equal(batch: Batch, other: Batch) -> None:
    for name, value in vars(batch).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


# Batches do not depend on how samples are grouped


@pytest.mark.parametrize("source", [one_size(), mixed_sizes(), mixed_sizes(channels=1)])
@pytest.mark.parametrize(
    "change",
    [{}, {"random_resized_crop": True}, {"scale_jitter": (16, 40)}, {"pad_mode": "reflect", "flip": "alternating"}],
    ids="-".join,
)
def test_a_sample_is_the_same_in_any_batch_on_any_rank(source: Any, change: dict[str, Any]) -> None:
    settings = (_EVERYTHING if source.channels == 3 else _GREY_TOO) | change
    whole = _training(source, **settings).batch(5, _SAMPLES, _MASK)
    shuffled = np.random.default_rng(0).permutation(_SAMPLES)
    for part in (shuffled[:5], shuffled[5:], shuffled[:1], np.repeat(shuffled[:1], 3)):
        again = _training(source, **settings).batch(5, part, _MASK[part])
        expected = Batch(**{name: value[part] for name, value in vars(whole).items()})
        _assert_equal(again, expected)


@pytest.mark.parametrize(
    "change",
    [
        {"random_resized_crop": True},
        {"scale_jitter": (16, 40)},
        {"flip": "alternating"},
        {"pad_crop": 2, "pad_mode": "reflect"},
        *({key: _EVERYTHING[key]} for key in _EVERYTHING),
    ],
)
def test_each_augmentation_changes_with_epoch_and_seed_and_leaves_the_source_alone(change: dict[str, Any]) -> None:
    source, untouched = one_size(), one_size().images
    first = _training(source, **change).batch(0, _SAMPLES, _MASK).images
    assert not np.array_equal(first, _training(source, **change).batch(1, _SAMPLES, _MASK).images)
    assert not np.array_equal(first, _training(source, seed=4, **change).batch(0, _SAMPLES, _MASK).images)
    np.testing.assert_array_equal(source.images, untouched)


def test_without_augmentation_a_batch_is_the_samples_themselves() -> None:
    source = one_size()
    batch = _training(source).batch(0, _SAMPLES[::-1], _MASK)
    np.testing.assert_array_equal(batch.images, source.images[11::-1])
    np.testing.assert_array_equal(batch.labels, source.labels[11::-1])
    np.testing.assert_array_equal(batch.partners, batch.labels)
    np.testing.assert_array_equal(batch.weights, 1)
    assert not np.shares_memory(batch.images, source.images)


@pytest.mark.parametrize("source", [one_size(), mixed_sizes()])
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
    source = mixed_sizes()
    batch = EvaluationView(source, 16, 16).batch(_SAMPLES, _MASK)
    _assert_equal(batch, _training(source).batch(7, _SAMPLES, _MASK))
    assert len(EvaluationView(source, 16, 16)) == len(_training(source)) == 12


def test_every_setting_is_carried_out_by_one_entry() -> None:
    framing = {"resize", "random_resized_crop", "crop_scale", "crop_ratio", "scale_jitter"}
    details = {"pad_mode"}  # of an entry that another setting turns on
    changes_size = {"progressive"}
    elsewhere = {"mixup", "cutmix", "normalize"}  # applied to two samples, or on the device
    others = framing | details | changes_size | elsewhere
    entries = [key for keys in AUGMENTATIONS for key in keys]
    assert entries == [field.name for field in fields(AugmentConfig) if field.name not in others]


# Resizing and cropping


@pytest.mark.parametrize("channels", [1, 3])
def test_resize_and_centre_crop_are_pillows(channels: int) -> None:
    image = noise(60, 43, channels)
    pillow = Image.fromarray(image.squeeze()).resize((24, 24 * 60 // 43), Image.Resampling.BILINEAR)
    expected = np.asarray(pillow.crop((2, 6, 22, 26))).reshape(20, 20, channels)  # 33 x 24: 6.5 rounds to 6
    source = MixedSizes([image], np.zeros(1, np.int32))
    for part in (source, _array(image)):
        batch = EvaluationView(part, 24, 20).batch(np.array([0]), _MASK[:1])
        np.testing.assert_array_equal(batch.images[0], expected)


def _array(image: np.ndarray) -> ArraySource:
    return ArraySource(image[None], np.zeros(1, np.int32), ("a",))


@pytest.mark.parametrize("channels", [1, 3])
def test_five_crops_are_the_centre_and_the_corners_and_ten_their_mirror_images_too(channels: int) -> None:
    image = noise(60, 43, channels)
    pillow = Image.fromarray(image.squeeze()).resize((24, 24 * 60 // 43), Image.Resampling.BILINEAR)
    corners = [(2, 6), (0, 0), (4, 0), (0, 13), (4, 13)]  # left and top in 24 x 33
    cut = [pillow.crop((left, top, left + 20, top + 20)) for left, top in corners]
    expected = [np.asarray(part).reshape(20, 20, channels) for part in cut]
    for source in (MixedSizes([noise(30, 30, channels), image], np.array([0, 1], np.int32)), _array(image)):
        samples = np.array([len(source) - 1])
        five, ten = (EvaluationView(source, 24, 20, crops).batch(samples, _MASK[:1]).images for crops in (5, 10))
        np.testing.assert_array_equal(five, expected)
        np.testing.assert_array_equal(ten, [*expected, *(part[:, ::-1] for part in expected)])


def test_the_crops_of_a_sample_stand_together() -> None:
    source = mixed_sizes()
    alone = [EvaluationView(source, 18, 16, 5).batch(np.array([sample]), _MASK[:1]).images for sample in (3, 0)]
    both = EvaluationView(source, 18, 16, 5).batch(np.array([3, 0]), _MASK[:2])
    np.testing.assert_array_equal(both.images, np.concatenate(alone))
    assert both.labels.tolist() == [1, 0] and len(both.mask) == len(both.samples) == 2


@pytest.mark.parametrize("source", [one_size(), mixed_sizes()], ids=["one size", "mixed sizes"])
@pytest.mark.parametrize("size", [12, 16])
def test_the_views_of_a_sample_are_those_of_its_centre_crop(source: Any, size: int) -> None:
    samples = np.array([3, 0])
    seen = EvaluationView(source, 16, size, views=6).batch(samples, _MASK[:2])
    centres = EvaluationView(source, 16, size).batch(samples, _MASK[:2])
    np.testing.assert_array_equal(seen.images, with_views(centres.images, 6))
    assert len(seen.images) == 12 and seen.labels.tolist() == centres.labels.tolist()


def test_several_crops_of_nothing_but_the_centre_are_refused() -> None:
    with pytest.raises(RequestError, match=r"evaluation\.crops 5 .*data\.image_size 16, .*; train with augment\.resize above"):
        EvaluationView(one_size(), 16, 16, crops=5)


def test_images_that_already_have_the_scale_are_only_cropped() -> None:
    image = noise(16, 20, 3)
    for source in (_array(image), MixedSizes([image], np.zeros(1, np.int32))):
        just_covered = EvaluationView(source, 16, 16).batch(np.array([0]), _MASK[:1]).images[0]
        cropped = EvaluationView(source, 16, 10).batch(np.array([0]), _MASK[:1]).images[0]
        np.testing.assert_array_equal(just_covered, image[:, 2:18])
        np.testing.assert_array_equal(cropped, image[3:13, 5:15])


def test_a_resize_below_the_image_size_names_both_keys() -> None:
    expected = r"augment\.resize .* 12 pixels.*data\.image_size 16"
    with pytest.raises(RequestError, match=expected):
        _training(one_size(), resize=12)
    with pytest.raises(RequestError, match=expected):
        short_side(AugmentConfig(resize=12), 16)


def test_a_random_crop_is_pillows_resize_of_its_box() -> None:
    source, config = mixed_sizes(), AugmentConfig(random_resized_crop=True)
    framed = _training(source, random_resized_crop=True).batch(2, _SAMPLES, _MASK).images
    for image, result, draws in zip(source.images, framed, crop_boxes.box_draws(Draws(3, 2, _SAMPLES), "crop"), strict=True):
        top, left, height, width = crop_boxes.random_box(image.shape[0], image.shape[1], config, draws)
        pillow = Image.fromarray(image).crop((left, top, left + width, top + height))
        np.testing.assert_array_equal(result, np.asarray(pillow.resize((16, 16), Image.Resampling.BILINEAR)))


def test_scale_jitter_is_pillows_resize_of_its_box() -> None:
    source = mixed_sizes()
    framed = _training(source, scale_jitter=(16, 40)).batch(2, _SAMPLES, _MASK).images
    for image, result, draws in zip(source.images, framed, crop_boxes.box_draws(Draws(3, 2, _SAMPLES), "crop"), strict=True):
        top, left, height, width = crop_boxes.jittered_box(image.shape[0], image.shape[1], 16, (16, 40), draws)
        pillow = Image.fromarray(image).crop((left, top, left + width, top + height))
        np.testing.assert_array_equal(result, np.asarray(pillow.resize((16, 16), Image.Resampling.BILINEAR)))


def test_a_scale_jitter_below_the_image_size_names_both_keys() -> None:
    with pytest.raises(RequestError, match=r"augment\.scale_jitter .* 12 pixels.*data\.image_size 16"):
        _training(one_size(), scale_jitter=(12, 20))


# Augmentations


def test_every_shift_of_pad_crop_is_equally_likely() -> None:
    marked = np.zeros((9000, 3, 3, 1), np.uint8)
    marked[:, 1, 1] = 255
    view = _training(ArraySource(marked, np.zeros(9000, np.int32), ("a",)), size=3, pad_crop=1)
    shifts = view.batch(0, np.arange(9000), np.ones(9000, np.float32)).images.sum(axis=0, dtype=np.int64) // 255
    assert stats.chisquare(shifts.ravel()).pvalue > 0.01


def test_a_reflected_border_has_the_colours_of_its_image() -> None:
    source = ArraySource(np.full((40, 5, 5, 3), 200, np.uint8), np.zeros(40, np.int32), ("a",))
    for mode, expected in (("constant", 0), ("reflect", 200)):
        view = _training(source, size=5, pad_crop=4, pad_mode=mode)
        assert view.batch(0, _SAMPLES, _MASK).images.min() == expected


def test_a_border_that_reflects_more_than_the_image_is_refused() -> None:
    with pytest.raises(RequestError, match=r"augment\.pad_mode reflect .*augment\.pad_crop below data\.image_size 16.* 16;"):
        _training(one_size(), pad_crop=16, pad_mode="reflect")
    _training(one_size(), pad_crop=16)


def test_half_of_the_images_are_mirrored() -> None:
    images = np.repeat(noise(1, 4, 4, 3), 4000, axis=0)
    view = _training(ArraySource(images, np.zeros(4000, np.int32), ("a",)), size=4, flip=True)
    seen = view.batch(0, np.arange(4000), np.ones(4000, np.float32)).images
    mirrored = (seen == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (seen == images).all(axis=(1, 2, 3))).all()
    assert abs(mirrored.mean() - 0.5) < 0.03


def _mirrored(seed: int, epoch: int, samples: np.ndarray) -> np.ndarray:
    """Which samples alternating flips mirror: ``(B,) bool``."""
    images = np.repeat(noise(1, 4, 4, 3), 4000, axis=0)
    view = _training(ArraySource(images, np.zeros(4000, np.int32), ("a",)), size=4, seed=seed, flip="alternating")
    seen = view.batch(epoch, samples, np.ones(len(samples), np.float32)).images
    mirrored = (seen == images[samples, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(mirrored, (seen != images[samples]).any(axis=(1, 2, 3)))
    return mirrored


@pytest.mark.parametrize("epoch", [0, 1, 6, 7])
def test_two_epochs_of_alternating_flips_show_both_mirror_images_of_every_sample(epoch: int) -> None:
    samples = np.arange(4000)
    first, next_epoch = _mirrored(5, epoch, samples), _mirrored(5, epoch + 1, samples)
    np.testing.assert_array_equal(next_epoch, ~first)
    assert abs(first.mean() - 0.5) < 0.03


def test_alternating_flips_depend_on_seed_sample_and_the_parity_of_the_epoch() -> None:
    samples = np.random.default_rng(0).permutation(4000)
    np.testing.assert_array_equal(_mirrored(5, 8, samples), _mirrored(5, 0, np.arange(4000))[samples])
    np.testing.assert_array_equal(_mirrored(5, 3, samples[:7]), _mirrored(5, 1, samples)[:7])
    assert 0.45 < (_mirrored(5, 0, samples) == _mirrored(6, 0, samples)).mean() < 0.55


def test_factors_fill_the_range_that_was_asked_for() -> None:
    images = np.full((2000, 1, 1, 1), 100, np.uint8)
    view = _training(ArraySource(images, np.zeros(2000, np.int32), ("a",)), size=1, brightness=0.4)
    seen = view.batch(0, np.arange(2000), np.ones(2000, np.float32)).images
    assert seen.min() == 60 and seen.max() == 140 and abs(seen.mean() - 100) < 2


def test_cutout_centres_lie_anywhere_and_take_the_mean_colour() -> None:
    source = ArraySource(np.zeros((4096, 8, 8, 3), np.uint8), np.zeros(4096, np.int32), ("a",))
    view = TrainingView(source, AugmentConfig(cutout=1), 8, 0, (7, 8, 9))
    total = view.batch(0, np.arange(4096), np.ones(4096, np.float32)).images.sum(axis=0, dtype=np.int64)
    assert (total * 8 == total[..., 1:2] * (7, 8, 9)).all()
    assert stats.chisquare(total[..., 0].ravel() / 7).pvalue > 0.01


@pytest.mark.parametrize("flip", [True, "alternating"])
def test_mixup_blends_a_sample_with_another_as_that_one_is_augmented_itself(flip: Any) -> None:
    source = one_size()
    mixing = {key: value for key, value in _EVERYTHING.items() if key not in ("mixup", "cutmix")} | {"flip": flip}
    alone = _training(source, **mixing).batch(4, np.arange(40), np.ones(40, np.float32)).images.astype(np.float64)
    batch = _training(source, mixup=0.4, **mixing).batch(4, _SAMPLES, _MASK)  # labels are indices in this source
    weights = batch.weights[:, None, None, None]
    expected = weights * alone[_SAMPLES] + (1 - weights) * alone[batch.partners]
    assert np.abs(batch.images - expected).max() <= 0.5001
    np.testing.assert_array_equal(batch.labels, _SAMPLES)


def test_cutmix_pastes_another_sample_as_that_one_is_augmented_itself() -> None:
    source = one_size()
    mixing = {key: value for key, value in _EVERYTHING.items() if key not in ("mixup", "cutmix")}
    alone = _training(source, **mixing).batch(4, np.arange(40), np.ones(40, np.float32)).images
    batch = _training(source, cutmix=1.0, **mixing).batch(4, _SAMPLES, _MASK)
    for image, sample, partner, weight in zip(batch.images, _SAMPLES, batch.partners, batch.weights, strict=True):
        own, other = ((image == alone[number]).all(axis=-1) for number in (sample, partner))
        assert (own | other).all()
        assert 1 - other.mean() <= weight + 1e-6 and weight <= own.mean() + 1e-6  # where both are equal, either matches
    assert 0 < batch.weights.mean() < 1


def test_lighting_has_the_deviation_that_was_asked_for_along_each_component() -> None:
    images = np.full((6000, 1, 1, 3), 128, np.uint8)
    view = _training(ArraySource(images, np.zeros(6000, np.int32), ("a",)), size=1, lighting=0.4)
    shifts = view.batch(0, np.arange(6000), np.ones(6000, np.float32)).images.reshape(-1, 3) - 128.0
    variances = np.linalg.eigvalsh(np.cov(shifts.T))[::-1]
    np.testing.assert_allclose(np.sqrt(variances[:2]), 0.4 * np.array([55.46, 4.794]), rtol=0.05)
    assert abs(shifts.mean(axis=0)).max() < 1


def test_lighting_of_grey_images_is_refused() -> None:
    with pytest.raises(RequestError, match=r"augment\.lighting .* grey; set augment\.lighting to 0 or data\.channels to 3"):
        _training(one_size(channels=1), lighting=0.1)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_follow_beta_and_partners_come_from_the_whole_set(alpha: float) -> None:
    source = ArraySource(np.zeros((5000, 1, 1, 1), np.uint8), np.arange(5000, dtype=np.int32), ("a",) * 5000)
    batch = _training(source, size=1, mixup=alpha).batch(0, np.arange(5000), np.ones(5000, np.float32))
    assert abs(batch.weights.mean() - 0.5) < 0.02
    assert stats.kstest(batch.weights, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    assert stats.kstest(batch.partners / 5000, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(batch.weights, batch.partners)[0, 1]) < 0.05


def test_progressive_resizing_scales_the_augmented_images_of_the_first_epochs() -> None:
    source, samples = one_size(), np.arange(12)
    mask = np.ones(12, np.float32)
    full = _training(source, flip=True, pad_crop=2)
    side = full.batch(0, samples, mask).images.shape[1]
    assert side % 4 == 0
    view = _training(source, flip=True, pad_crop=2, progressive=((1, side // 4), (3, side // 2)))
    for epoch, factor in enumerate([4, 2, 2, 1]):
        whole, scaled = (one.batch(epoch, samples, mask).images for one in (full, view))
        blocks = whole.reshape(12, side // factor, factor, side // factor, factor, -1)
        assert scaled.shape == (12, side // factor, side // factor, whole.shape[3])
        np.testing.assert_allclose(scaled, blocks.mean(axis=(2, 4)), atol=0.5 + 1e-6)


def test_a_progressive_side_above_the_image_size_is_refused() -> None:
    with pytest.raises(RequestError, match="augment.progressive has side 99"):
        _training(one_size(), progressive=((1, 99),))
