"""Learning rate and weight decay by parameter group (optimizer.groups)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from vggdist.config.errors import RequestError
from vggdist.models.layers import NETWORK_PREFIX


class GroupFactors(NamedTuple):
    """Factors of a parameter's group: of the learning rate, and of the weight decay."""

    rate: float
    decay: float


def group_factors(groups: Sequence[tuple[str, float, float]], names: Collection[str]) -> dict[str, GroupFactors]:
    """The factors of the parameters that are in a group, by name.

    Args:
        groups: (pattern, factor of the learning rate, factor of the weight decay). A parameter is in the group of the first
            pattern that matches its name without the network's prefix.
        names: of the trained parameters.

    Raises:
        RequestError: a group has no parameter.
    """
    found: dict[str, GroupFactors] = {}
    for pattern, *factors in groups:
        matched = [name for name in names if fnmatchcase(name.removeprefix(NETWORK_PREFIX), pattern)]
        own = [name for name in matched if name not in found]
        if not own:
            raise RequestError(_unused(pattern, names) if not matched else _hidden(pattern))
        found |= dict.fromkeys(own, GroupFactors(*factors))
    return found


def _unused(pattern: str, names: Collection[str]) -> str:
    known = [name.removeprefix(NETWORK_PREFIX) for name in names]
    shown = known if len(known) <= 6 else [*known[:3], "...", *known[-3:]]
    return f"optimizer.groups: no trained parameter matches {pattern!r}; their names are {', '.join(shown)}"


def _hidden(pattern: str) -> str:
    return f"optimizer.groups: earlier patterns match every parameter that {pattern!r} matches; move it before them"
