"""What the ranks send each other in a step: arithmetic alone, for the training as for ``plan`` and ``summary``."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from vggdist.config.schema import TrainConfig

_CAP_BETWEEN_HOSTS_MIB = 4.0


def bucket_cap(train: TrainConfig, several_hosts: bool) -> float:
    """Bytes from which a bucket of gradients is full; infinite where all of them are one.

    Within a host a bucket that travels beside the backward pass takes the cores that compute, and gains nothing.
    """
    if train.bucket_cap_mb is not None:
        return train.bucket_cap_mb * 2**20
    return _CAP_BETWEEN_HOSTS_MIB * 2**20 if several_hosts else inf


def buckets(sizes: Mapping[str, int], cap: float) -> list[list[str]]:
    """Which gradients travel together, in the order in which the backward pass makes them.

    Args:
        sizes: bytes of each gradient by its parameter's name, in the order of the layers.
        cap: bytes from which a bucket is full; the last one may have less.
    """
    made: list[list[str]] = [[]]
    filled = 0
    for name in reversed(list(sizes)):
        if filled and filled >= cap:
            made.append([])
            filled = 0
        made[-1].append(name)
        filled += sizes[name]
    return made
