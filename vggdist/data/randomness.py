"""Counter-based random numbers: a pure function of (seed, epoch, sample, stream), without a generator or state.

The coordinates are hashed by the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014). All ranks compute the same numbers, in any order, without communication.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF


def _mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser, element-wise; ``words`` is uint64 of any shape."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _absorb(state: NDArray[np.uint64], word: int | NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    """Add a coordinate to the hash state."""
    added = np.asarray(word, np.uint64) if isinstance(word, np.ndarray) else np.uint64(word & _MASK)
    return _mix((state ^ added) + np.uint64(_GOLDEN))


def hash64(*coordinates: int | str | NDArray[np.integer[Any]]) -> NDArray[np.uint64]:
    """Hash coordinates to uint64; integers and names broadcast against arrays of non-negative integers."""
    state = np.zeros(1, np.uint64)
    for coordinate in coordinates:
        state = _absorb(state, zlib.crc32(coordinate.encode()) if isinstance(coordinate, str) else coordinate)
    return state


def uniform(seed: int, epoch: int, samples: NDArray[np.int64], stream: str) -> NDArray[np.float64]:
    """One number in [0, 1) for each sample.

    Args:
        samples: ``(N,)`` indices of samples in the data set.
        stream: purpose of the number, such as "flip"; streams of different names are independent.

    Returns:
        ``(N,) float64`` with 53 random bits.
    """
    bits = hash64(seed, epoch, stream, np.asarray(samples))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniforms(seed: int, epoch: int, samples: NDArray[np.int64], streams: Sequence[str]) -> NDArray[np.float64]:
    """:func:`uniform` for several streams at once: ``(len(streams), N) float64``."""
    names = np.array([zlib.crc32(stream.encode()) for stream in streams], np.uint64)[:, None]
    bits = hash64(seed, epoch, names, np.asarray(samples)[None])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True, eq=False)
class Draws:
    """Random numbers of ``(B,)`` samples in an epoch, by stream."""

    seed: int
    epoch: int
    samples: NDArray[np.int64]

    def uniform(self, stream: str) -> NDArray[np.float64]:
        """``(B,)`` numbers in [0, 1)."""
        return uniform(self.seed, self.epoch, self.samples, stream)

    def uniforms(self, streams: Sequence[str]) -> NDArray[np.float64]:
        """``(len(streams), B)`` numbers in [0, 1)."""
        return uniforms(self.seed, self.epoch, self.samples, streams)

    def normals(self, streams: Sequence[str]) -> NDArray[np.float64]:
        """``(len(streams), B)`` numbers of the standard normal distribution."""
        return ndtri(np.maximum(self.uniforms(streams), 2.0**-54))  # ndtri(0) is infinite

    def integers(self, stream: str, count: int) -> NDArray[np.int64]:
        """``(B,) int64`` from 0 to ``count - 1``."""
        return (self.uniform(stream) * count).astype(np.int64)


def permutation(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The order of ``size`` samples in an epoch: ``(size,) int64``, each index once."""
    return np.argsort(hash64(seed, epoch, "order", np.arange(size)), kind="stable")


def step_seed(seed: int, step: int, rank: int) -> int:
    """31-bit seed of the device's random generator (dropout) for a step and a rank."""
    return int(hash64(seed, "device", step, rank)[0] >> np.uint64(33))
