"""The memory estimate, computed by hand; docs/plan.md has the measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from vggdist.config.schema import ModelConfig
from vggdist.data.data_shape import DataShape
from vggdist.planning.memory import Memory, estimate, largest_fit

VGG16_PARAMETERS = 138_357_544
SMALL = ModelConfig(name="custom", stages=((1, 2),), hidden=(5,), dropout=0.5)
IMAGES = DataShape(image_size=4, channels=1, num_classes=3)


def vgg16(samples: int, num_states: int = 1) -> Memory:
    return estimate(ModelConfig(name="vgg16"), DataShape(224, 3, 1000), samples, num_states, 0, compressed=False)


def test_vgg16_with_momentum_holds_its_parameters_three_times() -> None:
    memory = vgg16(1)
    assert memory.parameters == memory.gradients == memory.optimizer_state == 4 * VGG16_PARAMETERS
    assert memory.fixed == 12 * VGG16_PARAMETERS


def test_with_adam_it_holds_them_four_times() -> None:
    assert vgg16(1, num_states=2).fixed == 16 * VGG16_PARAMETERS


def test_frozen_parameters_have_no_gradient_and_no_state() -> None:
    frozen, whole = (
        estimate(replace(SMALL, stages=((1, 2), (1, 3)), freeze=freeze), IMAGES, 1, 2, 0, compressed=True) for freeze in (1, 0)
    )
    assert frozen.parameters == whole.parameters and whole.gradients - frozen.gradients == 4 * (9 * 2 + 2)
    assert whole.optimizer_state - frozen.optimizer_state == 2 * 4 * 20 and whole.reduction - frozen.reduction == 2 * 20


def test_a_small_network_counted_by_hand() -> None:
    memory = estimate(SMALL, IMAGES, samples=7, num_states=0, fusion_bytes=100, compressed=True)
    parameters = (9 * 2 + 2) + (8 * 5 + 5) + (5 * 3 + 3)
    # Image, convolution, pooling, hidden layer with mask and result of its dropout, scores.
    assert memory.activations == 4 * 7 * (16 + 32 + 8 + 3 * 5 + 3)
    assert memory.activation_gradients == 4 * 7 * (16 + 32)
    assert memory.work_space == 4 * 7 * 3 * 32
    assert memory.reduction == 100 + 2 * parameters
    assert memory.total == 8 * parameters + memory.reduction + 4 * 7 * (74 + 48 + 96)


def test_batch_normalisation_keeps_its_input_and_statistics() -> None:
    plain, normal = (
        estimate(ModelConfig(name="custom", stages=((1, 2),), hidden=(), batch_norm=norm), IMAGES, 1, 0, 0, False)
        for norm in (False, True)
    )
    assert normal.activations == plain.activations + 4 * 32
    assert normal.parameters - normal.gradients == 4 * 2 * 2 and plain.parameters == plain.gradients


@pytest.mark.parametrize(("samples", "products"), [(63, 0), (64, 256 * 512 + 512 * 512)])
def test_convolutions_that_become_matrix_products_count_with_enough_samples(samples: int, products: int) -> None:
    model = ModelConfig(name="custom", stages=((1, 8), (1, 256), (2, 512)), hidden=())
    memory = estimate(model, DataShape(8, 3, 10), samples, 0, 0, compressed=False)
    assert memory.matrices == 4 * 4 * 16 * products and memory.fixed == 2 * memory.parameters + memory.matrices


def test_the_batch_counts_in_proportion_and_the_rest_not_at_all() -> None:
    assert vgg16(32).of_samples == 32 * vgg16(1).of_samples and vgg16(32).fixed == vgg16(1).fixed


# Growth of the resident memory over three steps, MiB: MXNet 1.9.1 on CPU, one thread, SGD with momentum; 2026-11-21,
# the last one 2026-11-26.
@pytest.mark.parametrize(
    ("samples", "image_size", "batch_norm", "measured"),
    [
        (4, 224, False, 2076),
        (16, 224, False, 3475),
        (8, 224, True, 2957),
        (64, 64, False, 1145),
        (32, 96, True, 1643),
        (128, 32, False, 952),
    ],
)
def test_the_estimate_is_within_two_per_cent_of_what_was_measured(
    samples: int, image_size: int, batch_norm: bool, measured: int
) -> None:
    model = ModelConfig(name="vgg16", batch_norm=batch_norm, dropout=0.5)
    memory = estimate(model, DataShape(image_size, 3, 1000), samples, 1, 0, compressed=False)
    assert memory.total / 2**20 == pytest.approx(measured, rel=0.02)


# Growth of the resident memory per image between two sizes of an evaluation, after a training step, KiB; MXNet 1.9.1 on
# CPU, one thread; 2026-11-26.
@pytest.mark.parametrize(
    ("name", "image_size", "batch_norm", "measured"),
    [
        ("vgg16", 224, False, 29_632),
        ("vgg16", 224, True, 34_048),
        ("vgg16", 96, True, 6_208),
        ("vgg11", 64, False, 1_672),
        ("vgg11", 32, False, 416),
    ],
)
def test_an_evaluation_is_within_fifteen_per_cent_of_what_was_measured(
    name: Literal["vgg11", "vgg16"], image_size: int, batch_norm: bool, measured: int
) -> None:
    model = ModelConfig(name=name, batch_norm=batch_norm)
    memory = estimate(model, DataShape(image_size, 3, 1000), 1, 1, 0, compressed=False, evaluated=64)
    assert memory.evaluation / 64 / 1024 == pytest.approx(measured, rel=0.15)


def test_an_evaluation_stands_beside_the_training_whatever_its_batch() -> None:
    without, beside = (estimate(SMALL, IMAGES, 7, 0, 0, False, evaluated) for evaluated in (0, 5))
    # Three forms of the image, the image and the convolution's output, the pooling's.
    assert beside.evaluation == 4 * 5 * (3 * 16 + (16 + 32) + 8)
    assert beside.total - without.total == beside.fixed - without.fixed == beside.evaluation


def test_what_fits_is_the_largest_that_fits() -> None:
    limit = 12 * 2**30
    fitting = largest_fit(vgg16, 1000, limit)
    assert vgg16(fitting).total <= limit < vgg16(fitting + 1).total
    assert largest_fit(vgg16, fitting - 1, limit) == fitting - 1 and largest_fit(vgg16, 1000, 2**30) == 0


def test_what_fits_may_do_without_matrices() -> None:
    def needed(samples: int) -> Memory:
        return estimate(ModelConfig(name="vgg16"), DataShape(32, 3, 10), samples, 1, 0, compressed=False)

    assert needed(64).total - needed(63).total > needed(64).matrices > 0
    assert largest_fit(needed, 128, needed(63).total) == largest_fit(needed, 128, needed(64).total - 1) == 63
