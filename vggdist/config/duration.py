"""Durations in the format of batch systems."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-9]{2}):([0-9]{2})")


def parse_duration(text: str) -> int:
    """Parse ``H:MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS`` to seconds; without days, the hours may exceed 23.

    Raises:
        ValueError: for any other format. A plain number is rejected because batch systems read it as minutes.
    """
    match = _DURATION.fullmatch(text)
    if match:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        if minutes < 60 and seconds < 60 and (match[1] is None or hours < 24):
            return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    raise ValueError(f"{text!r} is not a duration; expected HH:MM:SS such as 12:00:00, or D-HH:MM:SS such as 1-12:00:00")
