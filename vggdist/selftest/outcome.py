"""What a check measured, on all ranks, and the report of all checks; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vggdist.diagnosis.findings import Finding


@dataclass(frozen=True)
class Measured:
    """What one rank measured.

    Attributes:
        value: of the rank; nan counts as beyond any limit.
        note: what a person needs to know beside it.
    """

    value: float
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """A check on all ranks.

    Attributes:
        claim: what it shows, in words.
        unit: of the values.
        limit: which no value may exceed; None where the value is only reported.
        values: of all ranks, in their order.
        note: of the worst rank.
        seconds: that it took.
    """

    claim: str
    unit: str
    limit: float | None
    values: Sequence[float]
    note: str
    seconds: float

    @classmethod
    def of(cls, claim: str, unit: str, limit: float | None, ranks: Sequence[Measured], seconds: float) -> Outcome:
        """From what the ranks measured."""
        note = ranks[_worst([one.value for one in ranks])].note
        return cls(claim, unit, limit, [one.value for one in ranks], note, seconds)

    @property
    def passed(self) -> bool:
        """Whether all values are within the limit."""
        return self.limit is None or all(value <= self.limit for value in self.values)

    def __str__(self) -> str:
        """One line, such as ``ok  update as on the CPU, small: 2.1e-07 (limit 0.001), rank 1``."""
        worst = _worst(self.values)
        limit = f" (limit {self.limit:g})" if self.limit is not None else ""
        rank = f", rank {worst}" if len(self.values) > 1 else ""
        note = f"; {self.note}" if self.note else ""
        level = ("ok" if self.limit is not None else "info") if self.passed else "FAILED"
        return f"{level:8}{self.claim}: {self.values[worst]:.4g}{self.unit}{limit}{rank}{note}"

    def finding(self) -> Finding:
        """For the doctor."""
        if self.passed:
            return Finding("ok", f"selftest: {str(self)[8:]}")
        return Finding(
            "error", f"selftest: {str(self)[8:]}", "do not train here; send selftest.json and selftest.txt (docs/gpu.md)"
        )


def _worst(values: Sequence[float]) -> int:
    """The rank of the largest value, or of the first that is no number."""
    return next((rank for rank, value in enumerate(values) if value != value), values.index(max(values)))


def as_json(place: Mapping[str, Any], outcomes: Sequence[Outcome], complete: bool) -> dict[str, Any]:
    """For ``selftest.json``.

    Args:
        place: ranks, devices, versions and environment.
        complete: no check is left; until then nothing has passed.
    """
    checks = [{**asdict(one), "values": _numbers(one.values), "passed": one.passed} for one in outcomes]
    return {"complete": complete, "passed": complete and all(one.passed for one in outcomes), **place, "checks": checks}


def _numbers(values: Sequence[float]) -> list[float | None]:
    """JSON knows no nan."""
    return [value if value == value else None for value in values]


def as_text(place: Mapping[str, Any], outcomes: Sequence[Outcome], complete: bool) -> str:
    """For ``selftest.txt``: the place, one line for each check, and the verdict."""
    lines = [f"{name}: {value}" for name, value in place.items()]
    failed = sum(not one.passed for one in outcomes)
    verdict = f"{failed} of {len(outcomes)} checks failed" if failed else f"{len(outcomes)} checks, none failed"
    if not complete:
        verdict += "; the test has not come to its end"
    return "\n".join([*lines, "", *map(str, outcomes), "", verdict]) + "\n"
