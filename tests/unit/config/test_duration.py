"""Durations in the format of batch systems are accepted, and no others."""

from __future__ import annotations

import pytest

from vggdist.config.duration import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:00:00", 0),
        ("0:00:59", 59),
        ("1:02:03", 3723),
        ("12:00:00", 43_200),
        ("100:00:00", 360_000),
        ("0-00:30:00", 1800),
        ("1-12:00:00", 129_600),
        ("30-23:59:59", 2_678_399),
    ],
)
def test_hours_minutes_seconds_and_days(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "90",
        "10:00",
        "1:60:00",
        "1:00:60",
        "1:0:00",
        "-1:00:00",
        "1-24:00:00",
        "1-10:00",
        "1:00:00 ",
        "1:00:00.5",
        "UNLIMITED",
    ]
    + ["१:00:00"],
)
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; expected HH:MM:SS such as 12:00:00") as refusal:
        parse_duration(text)
    assert repr(text) in str(refusal.value)
