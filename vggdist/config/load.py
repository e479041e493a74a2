"""From a YAML file and flags to one :class:`~vggdist.config.schema.Config`."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from vggdist.config.errors import RequestError
from vggdist.config.schema import Config

_CHOOSING = ("--config", "--data.name", "--model.name")
QUICKSTART = Path(__file__).with_name("quickstart.yaml")

Schema = TypeVar("Schema", bound=Config)

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_EXIT_CODES = "Exit codes: 0 finished, 1 failed, 2 the request or its data is wrong, 75 stopped on request and saved."
_UNKNOWN = (
    re.compile(r"Group '(?P<group>[\w.]+)' does not accept option '(?P<key>[\w.]+)'"),
    re.compile(r"Option '(?P<key>[\w.]+)' is not accepted"),
    re.compile(r"[Uu]nrecognized arguments: --(?P<key>[\w.-]+)"),
)


class _Parser(ArgumentParser):
    """A parser that raises instead of printing its usage and leaving."""

    schema: type[Config] = Config

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise RequestError(_explain(message, list(all_keys(self.schema))))


def all_keys(schema: type[Config] = Config) -> Iterator[str]:
    """Yield each option's full key, ``section.key``."""
    for section in dataclasses.fields(schema):
        for option in dataclasses.fields(section.default_factory):  # type: ignore[arg-type]
            yield f"{section.name}.{option.name}"


def _explain(message: str, keys: Sequence[str]) -> str:
    """Turn the parser's message into one line, with a suggestion out of ``keys`` where a key is unknown."""
    message = " ".join(message.split())
    for pattern in _UNKNOWN:
        if found := pattern.search(message):
            groups = found.groupdict()
            key = ".".join(filter(None, (groups.get("group"), groups["key"])))
            return f"unknown key {key}{_suggestion(key, keys)} (--help lists every key)"
    for noise in ("Parser key ", "<class '", "'>", "typing.", "- "):
        message = message.replace(noise, "")
    message = re.sub(r"Does not validate against any of the Union subtypes .*? Errors: ", "", message)
    message = re.sub(r" Expected a NoneType( Given value type: \w+)? Given value:", " or null. Got value:", message)
    return f"bad value: {message}" if message.startswith('"') else message


def _suggestion(key: str, keys: Sequence[str]) -> str:
    leaf = key.rpartition(".")[2]
    misspelt = difflib.get_close_matches(key, keys, n=1, cutoff=0.8)
    misplaced = [known for known in keys if known.rpartition(".")[2] == leaf]
    candidates = misspelt + misplaced + difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    return f"; did you mean {candidates[0]}?" if candidates else ""


def parser(command: str, schema: type[Config] = Config) -> ArgumentParser:
    """The command line of ``python -m vggdist.<command>``: ``--config FILE`` and every ``--section.key value``.

    Args:
        schema: :class:`Config`, or one with sections of the command's own beside a run's.
    """
    program = f"python -m vggdist.{command}"
    usage = f"{program} [--config FILE] [--section.key value ...]"
    made = _Parser(prog=program, usage=usage, allow_abbrev=False, epilog=_EXIT_CODES)
    made.schema = schema
    made.add_argument(
        "--config",
        action="config",
        help="YAML file of settings; flags after it override it. With neither this nor --data.name nor "
        "--model.name: the quickstart on digits.",
    )
    made.add_class_arguments(schema)
    return made


def load(command: str, arguments: Sequence[str]) -> Config:
    """The settings of a run; see :func:`load_as`."""
    return load_as(Config, command, arguments)


def load_as(schema: type[Schema], command: str, arguments: Sequence[str]) -> Schema:
    """Read the settings.

    Args:
        schema: :class:`Config`, or one with sections of the command's own beside a run's.

    Raises:
        RequestError: for an unknown key (with the closest known one), a value of the wrong type or out of range, or a
            file that cannot be read; the message names the key or file.
        SystemExit: with code 0 after ``--help``.
    """
    reader = parser(command, schema)
    words = list(arguments) if _values(arguments, *_CHOOSING) else ["--config", str(QUICKSTART), *arguments]
    try:
        asked = reader.parse_args(words)
        _require_sections(asked, schema)
        config = reader.instantiate(asked)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise RequestError(" ".join(str(error).split())) from None
    except RequestError as error:
        if "parsing config" not in str(error):
            raise
        raise RequestError(f"{' '.join(_values(arguments, '--config'))}: {error}") from None
    return schema(**{section.name: getattr(config, section.name) for section in dataclasses.fields(schema)})


def _require_sections(asked: Namespace, schema: type[Config]) -> None:
    for section in dataclasses.fields(schema):
        if not isinstance(asked[section.name], Namespace):
            raise RequestError(f"{section.name} is {asked[section.name]!r}; expected its keys (--help lists every key)")


def run_directory(config: Config) -> Path:
    """The folder of a run."""
    return Path(config.run.directory) / config.run.name


def requested_run_directory(arguments: Sequence[str]) -> Path:
    """The folder that a request means although it is wrong elsewhere, so that its error can be recorded there."""
    asked = requested(arguments, "run.directory", "run.name")
    return Path(str(asked["run.directory"])) / Path(str(asked["run.name"])).name


def requested(arguments: Sequence[str], *keys: str) -> dict[str, Any]:
    """What a request says of some keys, right or wrong: for what must be known before the whole of it is read.

    Args:
        keys: ``section.key``.

    Returns:
        For each key the value as a file has it, or as text where a flag has it, or the default.
    """
    asked = {}
    for key in keys:
        section, name = key.split(".")
        said = [content[name] for file in _values(arguments, "--config") if name in (content := _section(Path(file), section))]
        asked[key] = [getattr(getattr(Config(), section), name), *said, *_values(arguments, f"--{key}")][-1]
    return asked


def _values(arguments: Sequence[str], *flags: str) -> list[str]:
    """The values of some flags, written ``--flag value`` or ``--flag=value``."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--") else [word])]
    return [value for flag, value in zip(words, words[1:]) if flag in flags]


def _section(path: Path, section: str) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load(path.read_text())[section])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, ValueError):
        return {}


def as_yaml(config: Config) -> str:
    """The complete settings as YAML that ``--config`` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML's safe form has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
