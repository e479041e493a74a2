"""The errors whose text is written for the person who started the run."""

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


class Unconnected(RequestError):
    """The processes that a launcher started together do not know each other; every one of them raises this."""

    agreed = True


class RunError(VggdistError):
    """A run that was asked for rightly failed: a loss that is not finite, a rank that differs (exit code 1)."""


class Stopped(VggdistError):
    """A run that was told to stop and saved a checkpoint; the same command continues it (exit code 75, EX_TEMPFAIL)."""

    exit_code = 75


class Dismissed(VggdistError):
    """This process is no longer one of an elastic job's ranks, which go on without it; the launcher ignores its exit code."""


def agreed(error: VggdistError) -> VggdistError:
    """Mark an error that every rank raises at the same place with the same text."""
    error.agreed = True
    return error


def require(condition: bool, key: str, value: object, expected: str) -> None:
    """Raise ``ValueError`` that names the key, the value and what was expected instead."""
    if not condition:
        raise ValueError(f"{key} is {value!r}; expected {expected}")
