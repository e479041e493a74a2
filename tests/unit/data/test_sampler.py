"""Every sample is used once per epoch, in the same step for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from vggdist.config.errors import RequestError
from vggdist.data.sampler import SamplePlan, evaluation_batches, global_batch_size, make_plan

SIZES = (1, 7, 64, 997)
WORLD_SIZES = (1, 2, 3, 4, 5)
each_size = pytest.mark.parametrize("num_samples", SIZES)
each_world = pytest.mark.parametrize("world_size", WORLD_SIZES)


def epoch_parts(plan: SamplePlan, epoch: int, rank: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """A rank's (samples, mask) of each step of an epoch."""
    order = plan.order(epoch)
    return [plan.part(order, step, rank) for step in range(plan.steps_per_epoch)]


def counted(plan: SamplePlan, epoch: int) -> list[int]:
    """All samples of an epoch without padding, over all ranks."""
    parts = [part for rank in range(plan.world_size) for part in epoch_parts(plan, epoch, rank)]
    return [int(sample) for samples, mask in parts for sample in samples[mask == 1]]


def global_batches(plan: SamplePlan, epoch: int) -> list[tuple[list[int], list[float]]]:
    """(samples, mask) of each step, the parts of the ranks concatenated."""
    order, batches = plan.order(epoch), []
    for step in range(plan.steps_per_epoch):
        samples, masks = zip(*(plan.part(order, step, rank) for rank in range(plan.world_size)))
        batches.append((np.concatenate(samples).tolist(), np.concatenate(masks).tolist()))
    return batches


@each_size
@each_world
@pytest.mark.parametrize("per_rank", [1, 3, 16])
def test_the_union_of_the_shards_is_the_data_set(num_samples: int, world_size: int, per_rank: int) -> None:
    plan = SamplePlan(num_samples, per_rank * world_size, world_size, seed=3)
    assert sorted(counted(plan, epoch=2)) == list(range(num_samples))


@each_size
def test_the_global_batches_are_the_same_for_any_number_of_ranks(num_samples: int) -> None:
    batches = [global_batches(SamplePlan(num_samples, 60, world_size, seed=3), epoch=1) for world_size in WORLD_SIZES]
    assert all(other == batches[0] for other in batches[1:])


@each_size
@each_world
@pytest.mark.parametrize(("global_batch", "accumulation"), [(1, 1), (8, 3), (61, 1), (61, 4)])
def test_ranks_that_cannot_share_the_global_batch_evenly_take_the_same_samples(
    num_samples: int, world_size: int, global_batch: int, accumulation: int
) -> None:
    plan = SamplePlan(num_samples, global_batch, world_size, seed=3, accumulation=accumulation)
    one = SamplePlan(num_samples, global_batch, 1, seed=3)
    order = plan.order(1)
    assert plan.steps_per_epoch == one.steps_per_epoch and plan.batch_size % accumulation == 0
    for step in range(plan.steps_per_epoch):
        parts = [plan.part(order, step, rank) for rank in range(world_size)]
        assert {(samples.shape, mask.shape) for samples, mask in parts} == {((plan.batch_size,), (plan.batch_size,))}
        counted = [int(sample) for samples, mask in parts for sample in samples[mask == 1]]
        samples, mask = one.part(order, step, 0)
        assert counted == samples[mask == 1].tolist() and len(counted) == plan.num_valid(step)


@each_size
@each_world
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_rank_makes_the_same_steps_of_the_same_size(num_samples: int, world_size: int, drop_last: bool) -> None:
    plan = SamplePlan(num_samples, 4 * world_size, world_size, seed=0, drop_last=drop_last)
    shapes = [[(samples.shape, mask.shape) for samples, mask in epoch_parts(plan, 0, rank)] for rank in range(world_size)]
    assert shapes == [[((4,), (4,))] * plan.steps_per_epoch] * world_size


@each_size
@each_world
def test_drop_leaves_out_only_the_tail(num_samples: int, world_size: int) -> None:
    plan = SamplePlan(num_samples, 3 * world_size, world_size, seed=1, drop_last=True)
    kept = num_samples - num_samples % plan.global_batch_size
    assert sorted(counted(plan, epoch=4)) == sorted(plan.order(4)[:kept].tolist())
    assert all(mask.all() for rank in range(world_size) for _, mask in epoch_parts(plan, 4, rank))


def test_dropped_samples_differ_from_epoch_to_epoch() -> None:
    plan = SamplePlan(100, 32, 2, seed=0, drop_last=True)
    assert set(counted(plan, 0)) != set(counted(plan, 1))


@each_size
@each_world
def test_fill_repeats_samples_of_the_same_batch(num_samples: int, world_size: int) -> None:
    plan = SamplePlan(num_samples, 5 * world_size, world_size, seed=0)
    for samples, mask in global_batches(plan, epoch=0):
        valid = {sample for sample, weight in zip(samples, mask) if weight}
        assert set(samples) == valid


@each_size
def test_num_valid_is_the_sum_of_the_masks(num_samples: int) -> None:
    plan = SamplePlan(num_samples, 12, 4, seed=0)
    masks = [sum(mask) for _, mask in global_batches(plan, epoch=0)]
    assert masks == [plan.num_valid(step) for step in range(plan.steps_per_epoch)] and sum(masks) == num_samples


def test_samples_are_indices_and_masks_are_float32() -> None:
    plan = SamplePlan(7, 4, 2, seed=0)
    samples, mask = plan.part(plan.order(0), step=1, rank=1)
    assert samples.dtype == np.int64 and mask.dtype == np.float32 and mask.tolist() == [1, 0]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [SamplePlan(64, 8, 2, seed).order(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4


@each_size
@each_world
@pytest.mark.parametrize("batch_size", [1, 6, 128])
def test_evaluation_counts_each_sample_once(num_samples: int, world_size: int, batch_size: int) -> None:
    batches = [batch for rank in range(world_size) for batch in evaluation_batches(num_samples, batch_size, world_size, rank)]
    assert sorted(np.concatenate(batches).tolist()) == list(range(num_samples))
    assert all(1 <= len(batch) <= batch_size for batch in batches)


@each_size
@each_world
def test_evaluation_batches_are_the_same_for_any_number_of_ranks(num_samples: int, world_size: int) -> None:
    def all_batches(ranks: int) -> list[list[int]]:
        return sorted(batch.tolist() for rank in range(ranks) for batch in evaluation_batches(num_samples, 6, ranks, rank))

    assert all_batches(world_size) == all_batches(1)


def test_a_rank_beyond_the_last_evaluation_batch_has_none() -> None:
    assert evaluation_batches(7, 4, 5, rank=2) == []


def test_the_global_batch_is_the_ranks_batches_together() -> None:
    assert global_batch_size(32, None, world_size=3, accumulation=2) == 96


def test_a_requested_global_batch_does_not_grow_with_the_ranks() -> None:
    assert [global_batch_size(32, 60, world_size, 1) for world_size in WORLD_SIZES] == [60] * 5


@pytest.mark.parametrize(
    ("requested", "world_size", "accumulation", "fitting"),
    [(64, 3, 1, "63 or 66"), (100, 4, 3, "96 or 108"), (2, 3, 1, "use 3 samples")],
)
def test_a_global_batch_that_does_not_divide_names_the_fitting_sizes(
    requested: int, world_size: int, accumulation: int, fitting: str
) -> None:
    with pytest.raises(RequestError, match=f"train.global_batch_size.*{fitting}"):
        global_batch_size(32, requested, world_size, accumulation)


def test_a_batch_size_that_accumulation_does_not_divide_names_its_key() -> None:
    with pytest.raises(RequestError, match=r"train\.batch_size.*train\.accumulation 3.*18 or 24"):
        global_batch_size(10, None, world_size=2, accumulation=3)


def test_more_ranks_than_samples_are_refused() -> None:
    with pytest.raises(RequestError, match="5 ranks for 4 training samples"):
        make_plan(4, 5, world_size=5, seed=0, drop_last=False)


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(RequestError, match="128 samples, the training set only 100; .* at most 50"):
        make_plan(100, 128, world_size=2, seed=0, drop_last=True)


def test_a_batch_as_large_as_the_data_set_is_one_step() -> None:
    assert make_plan(100, 100, 2, seed=0, drop_last=True).steps_per_epoch == 1
