"""Wall-clock limits as batch systems write them."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:([0-9]+)-)?([0-9]+):([0-9]{2}):([0-9]{2})")


def parse_duration(text: str) -> int:
    """Seconds in ``H:MM:SS``, ``HH:MM:SS`` or ``D-HH:MM:SS``; without days, the hours may be more than 23.

    Raises:
        ValueError: when the text is anything else. A number alone is refused: batch systems read it as minutes.
    """
    match = _DURATION.fullmatch(text)
    if match:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        if minutes < 60 and seconds < 60 and (match[1] is None or hours < 24):
            return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    raise ValueError(f"{text!r} is no duration; expected hours:minutes:seconds as in 12:00:00, or with days as in 1-12:00:00")
