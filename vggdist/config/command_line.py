"""Command-line parser of every command with settings: ``--config FILE`` and ``--section.key value``, in order."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from vggdist.config.errors import RequestError, written
from vggdist.config.options import Option, options, sections
from vggdist.config.suggestions import closest, suggested_key

EXIT_CODES = "Exit codes: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped on request and saved."
CONFIG = "config"


class SettingsParser(argparse.ArgumentParser):
    """Parses the options of a schema and those that a command adds; raises :class:`RequestError` instead of exiting.

    ``settings`` of the namespace holds (key, text) pairs in the order of the command line; a file has the key ``config``.
    """

    def __init__(
        self,
        command: str,
        schema: type,
        arguments: str = "",
        first: Sequence[str] = (),
        title: str = "its own options",
        shown: Sequence[str] | None = None,
        takes_file: bool = True,
        **texts: Any,
    ) -> None:
        """Add the options.

        Args:
            command: the part after ``python -m vggdist.``.
            arguments: the command's own arguments, for the usage line.
            first: keys that ``--help`` lists first, under ``title``.
            shown: sections and keys that ``--help`` lists; None: all. Every option is accepted.
            takes_file: whether ``--config`` is an option.
            texts: ``description`` and ``epilog``.
        """
        program = f"python -m vggdist.{command}"
        file = "[--config FILE] " if takes_file else ""
        usage = " ".join(filter(None, (program, arguments, f"{file}[--section.key value ...]")))
        texts = {"epilog": EXIT_CODES} | texts
        super().__init__(prog=program, usage=usage, allow_abbrev=False, formatter_class=_Help, **texts)
        self._options = options(schema)
        self.set_defaults(settings=[])
        if takes_file:
            self.add_argument("--config", metavar="FILE", dest=CONFIG, help=_HELP_OF_FILE, **_SETTING)
        if first:
            self._add(title, "", [self._options[key] for key in first])
        for section, text in sections(schema).items():
            own = [option for key, option in self._options.items() if key.startswith(f"{section}.") and key not in first]
            self._add(section, text, own, shown)

    def _add(self, title: str, text: str, listed: Sequence[Option], shown: Sequence[str] | None = None) -> None:
        visible = [one for one in listed if shown is None or title in shown or one.key in shown]
        group = self.add_argument_group(title, text) if visible else self
        for option in listed:
            help_text = _text(option) if option in visible else argparse.SUPPRESS
            group.add_argument(f"--{option.key}", metavar=option.metavar, dest=option.key, help=help_text, **_SETTING)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Read the command line.

        Raises:
            RequestError: an option is unknown or has no value, or an argument is not an option.
            SystemExit: with code 0 after ``--help``.
        """
        namespace, rest = self.parse_known_intermixed_args(arguments)
        if rest:
            raise RequestError(self._unknown(rest[0]))
        return namespace

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting."""
        option = next((option for option in self._options.values() if f"--{option.key}:" in message), None)
        if option is not None and "expected one argument" in message:
            raise RequestError(f"--{option.key} has no value; write --{option.key} {option.example}")
        raise RequestError(f"{message} (--help lists the options)")

    def _unknown(self, word: str) -> str:
        if word.startswith("-"):
            return unknown_key(word.lstrip("-").partition("=")[0], list(self._options))
        if word.endswith((".yaml", ".yml")):
            return f"{word!r} is not an option; write --config {word}"
        return f"{word!r} is not an option (--help lists the options)"


def unknown_key(key: str, known: Sequence[str]) -> str:
    """Error message for a key that does not exist."""
    names = {other.partition(".")[0] for other in known}
    if key in names:
        return f"{key} is a section; write its keys, such as {next(o for o in known if o.startswith(f'{key}.'))}"
    suggestion = suggested_key(key, known)
    return f"unknown key {key}{f'; did you mean {suggestion}?' if suggestion else ''} (--help lists every key)"


def missing_file(path: Path, error: OSError) -> str:
    """Error message for a file that cannot be read; suggests the most similar file name in its folder."""
    try:
        near = closest(path.name, os.listdir(path.parent))
    except OSError:
        near = None
    return f"{path}: {error.strerror}{f'; did you mean {path.with_name(near)}?' if near else ''}"


class _Setting(argparse.Action):
    """Appends (key, text) to the namespace's settings."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: str | None = None) -> None:
        namespace.settings = [*namespace.settings, (self.dest, values)]


_SETTING: dict[str, Any] = {"action": _Setting, "default": argparse.SUPPRESS}
_HELP_OF_FILE = "YAML file of settings; later options on the command line override it"


class _Help(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = os.environ.get("COLUMNS", "")
        super().__init__(prog, max_help_position=6, width=min(127, max(60, int(width) if width.isdecimal() else 110)))


def _text(option: Option) -> str:
    return f"{option.text} (default: {written(option.default)})".replace("%", "%%")
