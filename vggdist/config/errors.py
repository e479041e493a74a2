"""The errors whose text is written for the person who started the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vggdist.config.text import printable


class VggdistError(Exception):
    """An error with a documented exit code; its message says what was wrong, where, and what to do."""

    exit_code = 1
    agreed = False
    """True once every rank holds this same error, so that one of them can tell it and all can end together."""

    def __init__(self, message: str = "") -> None:
        """Take the message; what cannot be printed in it, such as a file name that is not UTF-8, is escaped."""
        super().__init__("\n".join(map(printable, message.split("\n"))))


class RequestError(VggdistError):
    """What was asked for cannot be done: a key, a value, a file or a size is wrong (exit code 2)."""

    exit_code = 2


class BeforeStart(RequestError):
    """A request that is refused before the ranks are connected, by every rank or by one that alone has the error."""


class RunError(VggdistError):
    """A run that was asked for rightly failed: a loss that is not finite, a rank that differs (exit code 1)."""


class Stopped(VggdistError):
    """A run that was told to stop and saved a checkpoint; the same command continues it (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75


class Dismissed(VggdistError):
    """This process is no longer one of an elastic job's ranks, which go on without it; the launcher ignores its exit code."""


@contextmanager
def before_start() -> Iterator[None]:
    """Mark a :class:`RequestError` as one of a time when the ranks are not connected yet."""
    try:
        yield
    except RequestError as error:
        raise BeforeStart(str(error)) from None


def agreed(error: VggdistError) -> VggdistError:
    """Mark an error that every rank raises at the same place with the same text."""
    error.agreed = True
    return error


def written(value: object) -> str:
    """A value as messages show it: ``null``, ``true``, ``[1, 2]``, ``'text'``."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    return repr(value) if isinstance(value, str) else "null" if value is None else str(value).lower()


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise ``ValueError`` that names the key, the value and what was expected instead."""
    if not condition:
        raise ValueError(f"{key} is {written(value)}; expected {expected}")
