"""Errors that are reported to the user: exception types with exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vggdist.config.text import printable


class VggdistError(Exception):
    """An error with a documented exit code; its message states the fault, its location and the remedy."""

    exit_code = 1
    agreed = False
    """True if every rank holds this same error: one rank reports it and all end together."""

    def __init__(self, message: str = "") -> None:
        """Take the message; unprintable characters in it, such as file name bytes that are not UTF-8, are escaped."""
        super().__init__("\n".join(map(printable, message.split("\n"))))


class RequestError(VggdistError):
    """The request is invalid: a key, a value, a file or a size is wrong (exit code 2)."""

    exit_code = 2


class BeforeStart(RequestError):
    """An invalid request that is detected before the ranks are connected, by all ranks or by a single one."""


class RunError(VggdistError):
    """A valid request failed at run time, for instance by a non-finite loss or diverged ranks (exit code 1)."""


class Stopped(VggdistError):
    """The run was requested to stop and saved a checkpoint; the same command resumes it (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75


class Dismissed(VggdistError):
    """This process was removed from an elastic job, which continues without it; the launcher ignores its exit code."""


@contextmanager
def before_start() -> Iterator[None]:
    """Convert a :class:`RequestError` to :class:`BeforeStart`: the ranks are not connected yet."""
    try:
        yield
    except RequestError as error:
        raise BeforeStart(str(error)) from None


def agreed(error: VggdistError) -> VggdistError:
    """Mark an error as raised by every rank at the same place with the same text."""
    error.agreed = True
    return error


def written(value: object) -> str:
    """Format a value for messages: ``null``, ``true``, ``[1, 2]``, ``'text'``."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    return repr(value) if isinstance(value, str) else "null" if value is None else str(value).lower()


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise ``ValueError`` with the key, its value and the expected value unless the condition holds."""
    if not condition:
        raise ValueError(f"{key} is {written(value)}; expected {expected}")
