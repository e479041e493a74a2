"""The self-test in a small size, on CPU or GPU."""

from __future__ import annotations

from vggdist.config.schema import ModelConfig
from vggdist.selftest.bench import Network, Scale

_SMALL = ModelConfig(name="custom", stages=((1, 8), (1, 16)), batch_norm=True, hidden=(32,))
_FULL = ModelConfig(name="vgg16", width_divisor=16, hidden=(32, 32))

TINY = Scale(
    small=Network(_SMALL, 16, 10, 8),
    full=Network(_FULL, 32, 10, 2),
    fast=Network(_FULL, 32, 10, 8),
    reduced_bytes=2**20,
    timed_steps=3,
)
