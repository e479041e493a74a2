"""The report of the self test: the worst rank counts, and nan fails."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vggdist.selftest.outcome import Measured, Outcome, as_json, as_text

NAN = float("nan")


def outcome(*values: float, limit: float | None = 1.0) -> Outcome:
    return Outcome.of("bits", " ms", limit, [Measured(value, f"of {value:g}") for value in values], 0.5)


@pytest.mark.parametrize(
    ("values", "limit", "line"),
    [
        ((0.25,), 1.0, "ok      bits: 0.25 ms (limit 1); of 0.25"),
        ((0.25, 0.5), 1.0, "ok      bits: 0.5 ms (limit 1), rank 1; of 0.5"),
        ((2.0, 0.5), 1.0, "FAILED  bits: 2 ms (limit 1), rank 0; of 2"),
        ((0.5, NAN, 9.0), 1.0, "FAILED  bits: nan ms (limit 1), rank 1; of nan"),
        ((3.0, 2.0), None, "info    bits: 3 ms, rank 0; of 3"),
    ],
)
def test_the_worst_rank_is_reported_and_judged(values: tuple[float, ...], limit: float | None, line: str) -> None:
    one = outcome(*values, limit=limit)
    assert str(one) == line and one.passed == (not line.startswith("FAILED"))


def test_a_check_that_fails_is_an_error_for_the_doctor_with_what_to_do() -> None:
    assert outcome(0.5).finding().level == "ok"
    failed = outcome(2.0).finding()
    assert failed.level == "error" and failed.what == "selftest: bits: 2 ms (limit 1); of 2" and "docs/gpu.md" in failed.cure


@pytest.mark.parametrize(("values", "summary"), [((0.5, 0.25), "2 checks, none failed"), ((0.5, NAN), "1 of 2 checks failed")])
def test_both_files_have_environment_checks_and_summary(values: tuple[float, ...], summary: str) -> None:
    outcomes, environment = [outcome(value) for value in values], {"ranks": 1, "devices": ["n1 gpu(0) A100 8.0"]}
    text = as_text(environment, outcomes, complete=True)
    assert text.startswith("ranks: 1\n") and text.rstrip().endswith(summary) and str(outcomes[1]) in text

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    data = json.loads(json.dumps(as_json(environment, outcomes, complete=True)), parse_constant=refuse)
    assert data["passed"] == ("none" in summary) and data["devices"] == environment["devices"]
    assert [one["passed"] for one in data["checks"]] == [value == value for value in values]


def test_an_incomplete_test_has_not_passed() -> None:
    outcomes = [outcome(0.5)]
    assert as_text({}, outcomes, complete=False).rstrip().endswith("1 checks, none failed; the test did not complete")
    data = as_json({}, outcomes, complete=False)
    assert not data["passed"] and not data["complete"] and as_json({}, outcomes, complete=True)["passed"]
