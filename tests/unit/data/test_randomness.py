"""Random numbers depend only on their coordinates, and pass statistical tests."""

from __future__ import annotations

import numpy as np
import pytest

from vggdist.data.randomness import Draws, hash64, permutation, step_seed, uniform, uniforms

SAMPLES = np.arange(20_000)


def draws() -> dict[str, np.ndarray]:
    """Numbers for the same samples that differ in one coordinate from the first."""
    return {
        "first": uniform(0, 0, SAMPLES, "flip"),
        "seed": uniform(1, 0, SAMPLES, "flip"),
        "epoch": uniform(0, 1, SAMPLES, "flip"),
        "stream": uniform(0, 0, SAMPLES, "crop"),
        "sample": uniform(0, 0, SAMPLES + 1, "flip"),
    }


@pytest.mark.parametrize("size", [0, 1, 7, 64, 997])
def test_a_permutation_holds_each_index_once(size: int) -> None:
    order = permutation(5, 9, size)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(size))


def test_a_permutation_is_the_same_each_time_it_is_asked_for() -> None:
    assert np.array_equal(permutation(3, 4, 500), permutation(3, 4, 500))


def test_permutations_differ_by_epoch_and_by_seed() -> None:
    orders = {tuple(permutation(seed, epoch, 50)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_seed_and_epoch_are_not_interchangeable() -> None:
    assert not np.array_equal(permutation(1, 2, 50), permutation(2, 1, 50))


def test_any_sample_can_come_first_and_neighbours_part() -> None:
    orders = np.stack([permutation(0, epoch, 10) for epoch in range(5000)])
    first = np.bincount(orders[:, 0], minlength=10)
    together = np.mean(np.diff(orders, axis=1) == 1)
    assert abs(first - 500).max() < 110 and together == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("name", list(draws()))
def test_uniform_has_the_moments_of_the_uniform_distribution(name: str) -> None:
    values = draws()[name]
    assert values.dtype == np.float64 and 0 <= values.min() and values.max() < 1
    assert values.mean() == pytest.approx(1 / 2, abs=0.01) and values.var() == pytest.approx(1 / 12, abs=0.004)


def test_uniform_fills_its_range_evenly() -> None:
    counts = np.histogram(draws()["first"], bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 50  # chi-square with 19 degrees of freedom: p < 1e-4 above


@pytest.mark.parametrize("name", ["seed", "epoch", "stream", "sample"])
def test_numbers_that_differ_in_one_coordinate_are_uncorrelated(name: str) -> None:
    numbers = draws()
    assert abs(np.corrcoef(numbers["first"], numbers[name])[0, 1]) < 0.03


def test_numbers_of_neighbouring_samples_are_uncorrelated() -> None:
    values = draws()["first"]
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.03


def test_a_number_does_not_depend_on_the_order_or_grouping_of_the_samples() -> None:
    shuffled = np.random.default_rng(0).permutation(1000)
    alone = np.concatenate([uniform(7, 3, np.array([sample]), "flip") for sample in range(1000)])
    assert np.array_equal(uniform(7, 3, shuffled, "flip"), alone[shuffled])


def test_step_seeds_are_31_bits_and_differ_by_seed_step_and_rank() -> None:
    seeds = {step_seed(seed, step, rank) for seed in range(10) for step in range(10) for rank in range(10)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**31 for seed in seeds) and max(seeds) > 2**30


def test_the_largest_seed_is_hashed_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    assert hash64(2**32 - 1, 2**40, "order", np.arange(3)).dtype == np.uint64 and not recwarn.list


def test_the_hash_is_the_same_on_every_machine() -> None:
    assert permutation(0, 0, 8).tolist() == [1, 3, 6, 5, 0, 7, 4, 2] and step_seed(0, 0, 0) == 1859902480


def test_several_streams_at_once_are_the_streams_one_by_one() -> None:
    samples, streams = np.array([5, 0, 2**40, 5]), ["crop top", "flip", "x"]
    expected = [uniform(3, 7, samples, stream) for stream in streams]
    np.testing.assert_array_equal(uniforms(3, 7, samples, streams), expected)


def test_draws_are_the_numbers_of_their_address() -> None:
    samples = np.array([5, 0, 2**40])
    draws = Draws(3, 7, samples)
    np.testing.assert_array_equal(draws.uniform("flip"), uniform(3, 7, samples, "flip"))
    np.testing.assert_array_equal(draws.integers("flip", 10), np.floor(10 * uniform(3, 7, samples, "flip")))


def test_normal_draws_are_standard_normal_and_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    values = Draws(0, 0, SAMPLES).normals(["a", "b"])
    assert values.shape == (2, len(SAMPLES)) and abs(np.corrcoef(values)[0, 1]) < 0.03
    assert abs(values.mean()) < 0.02 and values.std() == pytest.approx(1, abs=0.01)
    monkeypatch.setattr(Draws, "uniforms", lambda self, streams: np.array([[0, 1 - 2.0**-53]]))
    assert np.isfinite(Draws(0, 0, SAMPLES[:2]).normals(["a"])).all()
