"""The result of a check on all ranks, and the report of all checks. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vggdist.diagnosis.findings import Finding


@dataclass(frozen=True)
class Measured:
    """The measurement of one rank.

    Attributes:
        value: of the rank; nan fails any limit.
        note: additional information for the report.
    """

    value: float
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of a check on all ranks.

    Attributes:
        claim: description of the check.
        unit: of the values.
        limit: maximum of the values; None if the values are only reported.
        values: of all ranks, in their order.
        note: of the worst rank.
        seconds: duration of the check.
    """

    claim: str
    unit: str
    limit: float | None
    values: Sequence[float]
    note: str
    seconds: float

    @classmethod
    def of(cls, claim: str, unit: str, limit: float | None, ranks: Sequence[Measured], seconds: float) -> Outcome:
        """From the measurements of all ranks."""
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
        """The result as a finding of the doctor."""
        if self.passed:
            return Finding("ok", f"selftest: {str(self)[8:]}")
        return Finding(
            "error", f"selftest: {str(self)[8:]}", "do not train here; send selftest.json and selftest.txt (docs/gpu.md)"
        )


def _worst(values: Sequence[float]) -> int:
    """The rank with the first nan; without one, with the largest value."""
    return next((rank for rank, value in enumerate(values) if value != value), values.index(max(values)))


def as_json(environment: Mapping[str, Any], outcomes: Sequence[Outcome], complete: bool) -> dict[str, Any]:
    """Contents of ``selftest.json``.

    Args:
        environment: ranks, devices, versions and environment variables.
        complete: all checks have run; otherwise ``passed`` is False.
    """
    checks = [{**asdict(one), "values": _with_null(one.values), "passed": one.passed} for one in outcomes]
    return {"complete": complete, "passed": complete and all(one.passed for one in outcomes), **environment, "checks": checks}


def _with_null(values: Sequence[float]) -> list[float | None]:
    """The values with None instead of nan, which JSON does not have."""
    return [value if value == value else None for value in values]


def as_text(environment: Mapping[str, Any], outcomes: Sequence[Outcome], complete: bool) -> str:
    """Contents of ``selftest.txt``: the environment, one line for each check, and a summary."""
    lines = [f"{name}: {value}" for name, value in environment.items()]
    failed = sum(not one.passed for one in outcomes)
    summary = f"{failed} of {len(outcomes)} checks failed" if failed else f"{len(outcomes)} checks, none failed"
    if not complete:
        summary += "; the test did not complete"
    return "\n".join([*lines, "", *map(str, outcomes), "", summary]) + "\n"
