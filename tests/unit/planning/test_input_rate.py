"""Input rate of a GPU: the measured cost of an image, the published rates, and the resulting advice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vggdist.config.images import AugmentConfig
from vggdist.config.schema import ModelConfig
from vggdist.data.data_shape import DataShape
from vggdist.models.layers import describe
from vggdist.planning.input_rate import OTHER_CORES, PUBLISHED, Preparation, fitting_short_side, published_rates

DOCS = Path(__file__).parents[3] / "docs"
IMAGENET = DataShape(224, 3, 1000)
PLAIN = AugmentConfig(random_resized_crop=True, flip=True)
JITTERED = AugmentConfig(random_resized_crop=True, flip=True, brightness=0.4)


def test_a_core_prepares_what_the_page_on_data_measured() -> None:
    (row,) = re.findall(r"^\| records, as in training \| (.*) \|$", (DOCS / "data.md").read_text(), re.MULTILINE)
    plain, _, jittered, _ = map(float, row.split(" | "))
    assert 1 / Preparation.of(IMAGENET, PLAIN, True, None).seconds == pytest.approx(plain)
    assert 1 / Preparation.of(IMAGENET, JITTERED, True, None).seconds == pytest.approx(jittered)


def test_images_in_memory_cost_in_proportion_to_their_pixels_and_no_reading() -> None:
    small, large = (Preparation.of(DataShape(size, 3, 10), PLAIN, False, None) for size in (32, 64))
    assert small == Preparation(0.017e-3, 0) and large.seconds == pytest.approx(4 * small.seconds)


def test_smaller_stored_pictures_cost_and_read_less() -> None:
    whole, half = (Preparation.of(IMAGENET, PLAIN, True, side) for side in (None, 256))
    pixels = 256 * 256 * 4 / 3 / (500 * 375)
    assert half.seconds == pytest.approx(whole.seconds * pixels) and half.num_bytes == pytest.approx(108_000 * pixels)


@pytest.mark.parametrize(("images_per_s", "threads"), [(0.1, 1), (600, 1), (700, 2), (1390, 2), (1400, 3)])
def test_threads_prepare_a_quarter_more_than_is_taken(images_per_s: float, threads: int) -> None:
    cost = Preparation.of(IMAGENET, PLAIN, True, None)
    assert cost.threads(images_per_s) == threads and cost.cores(images_per_s) == threads + OTHER_CORES


def test_published_rates_are_those_of_vgg16_and_go_by_flops() -> None:
    vgg16 = describe(ModelConfig(name="vgg16"), channels=3, image_size=224, num_classes=1000)
    assert [rate.images_per_s for rate in published_rates(vgg16)] == [rate.images_per_s for rate in PUBLISHED]
    vgg11 = describe(ModelConfig(name="vgg11"), channels=3, image_size=224, num_classes=1000)
    factor = sum(layer.flops for layer in vgg16) / sum(layer.flops for layer in vgg11)
    assert next(published_rates(vgg11)).images_per_s == pytest.approx(PUBLISHED[0].images_per_s * factor)


def test_the_page_on_gpus_has_every_published_rate() -> None:
    page = (DOCS / "gpu.md").read_text()
    assert all(f"| {rate.gpu} | {rate.images_per_s:g} |" in page for rate in PUBLISHED)


def test_the_short_side_is_the_largest_that_the_cores_prepare_in_time() -> None:
    assert fitting_short_side(IMAGENET, PLAIN, 2000, cores=5) == 320
    assert fitting_short_side(IMAGENET, PLAIN, 2000, cores=4) == 288
    assert fitting_short_side(IMAGENET, PLAIN, 2000, cores=3) is None


def test_the_short_side_leaves_room_for_what_is_cropped() -> None:
    assert fitting_short_side(IMAGENET, PLAIN, 2900, cores=4) == 256
    assert fitting_short_side(IMAGENET, AugmentConfig(resize=288), 2900, cores=4) is None
    assert fitting_short_side(IMAGENET, AugmentConfig(scale_jitter=(256, 512)), 2900, cores=4) is None
