"""The errors whose text is written for the person who started the run."""


class RequestError(Exception):
    """What was asked for cannot be done: a key, a value, a file or a size is wrong (exit code 2).

    The message names the key, file or rank and says what to do.
    """


class RunError(Exception):
    """A run that was right failed: a loss that is not finite, a rank that differs (exit code 1)."""
