"""Parse a command line and its YAML files to a :class:`~vggdist.config.schema.Config`, before MXNet is imported."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, to_json

from vggdist.config.command_line import CONFIG, SettingsParser, missing_file, unknown_key
from vggdist.config.errors import RequestError, written
from vggdist.config.files import read_text
from vggdist.config.network import WITHDRAWN
from vggdist.config.options import Option, options, sections
from vggdist.config.schema import Config
from vggdist.config.yaml_file import MAX_BYTES, parse_file, parse_value

QUICKSTART = Path(__file__).with_name("quickstart.yaml")
MOST_USED = (
    "run.name",
    "data.name",
    "data.root",
    "data.image_size",
    "model.name",
    "model.batch_norm",
    "train.epochs",
    "train.batch_size",
    "optimizer.learning_rate",
    "run.device",
)
RUN_FILE = "config.yaml"
_LARGEST = 2**53
_KEY = re.compile(r"[a-z]+\.\w+")
_INSTEAD_OF = {
    "train.batch_size": "train.global_batch_size",
    "train.epochs": "train.steps",
    "checkpoint.every_epochs": "checkpoint.every_steps",
}
"""Settings, and those that count instead of them. A flag also overrides what a file sets instead of it."""
_CHOOSING = {CONFIG, "data.name", "model.name"}

Schema = TypeVar("Schema")
Training = TypeVar("Training", bound=Config)


class Setting(NamedTuple):
    """A configured value.

    Attributes:
        origin: file and line, as the prefix of a message; empty for a flag.
    """

    key: str
    value: Any
    origin: str


def train_parser(command: str = "train") -> SettingsParser:
    """The parser of the commands whose only arguments are the settings of a training."""
    note = "Without --config, --data.name and --model.name the quickstart on digits is run."
    return SettingsParser(command, Config, first=MOST_USED, title="most used", description=note)


def load(command: str, arguments: Sequence[str]) -> Config:
    """The settings of a training; see :func:`training_settings`. ``SystemExit`` with code 0 after ``--help``."""
    return training_settings(train_parser(command).parse(arguments).settings, Config)


def training_settings(pairs: Sequence[tuple[str, str]], schema: type[Training]) -> Training:
    """The settings of a training; those of the quickstart if no file, data set or model is selected.

    Raises:
        RequestError: as :func:`resolve`.
    """
    files = [text for key, text in pairs if key == CONFIG]
    if _CHOOSING.isdisjoint(key for key, _ in pairs):
        pairs = [(CONFIG, str(QUICKSTART)), *pairs]
    config = resolve(pairs, schema)
    return _named(config, files) if not config.run.name else config


def resolve(pairs: Sequence[tuple[str, str]], schema: type[Schema], before: Iterable[Setting] = ()) -> Schema:
    """Merge the defaults, then files and flags in their order.

    Args:
        pairs: (key, text) of the command line, from :class:`~vggdist.config.command_line.SettingsParser`.
        before: settings that files and flags override.

    Raises:
        RequestError: a key is unknown (the message suggests a similar one), a value has the wrong type or is out of range, or
            a file cannot be read. The message names the key, and the file and line if it is from a file.
    """
    known = options(schema)  # type: ignore[arg-type]
    settings = {setting.key: setting for setting in (*before, *_settings(pairs, known))}
    for key, instead in _INSTEAD_OF.items():
        if key in settings and instead in settings and not settings[key].origin and settings[instead].origin:
            del settings[instead]
    return _validated(settings, known, schema)


def settings_of_run(folder: Path, schema: Any) -> list[Setting]:
    """The settings in a run's folder that are options of a schema; empty if the folder has no configuration.

    Raises:
        RequestError: the configuration cannot be read.
    """
    path, accepted = folder / RUN_FILE, options(schema)
    return [one for one in _of_file(path, options(Config)) if one.key in accepted] if path.is_file() else []


def checked(config: Config) -> Config:
    """Validate the types of a configuration that was built in Python, and name the run if it has no name.

    Raises:
        RequestError: names the first invalid key.
    """
    try:
        valid = TypeAdapter(Config).validate_json(to_json(dataclasses.asdict(config), fallback=_python_value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{'.'.join(map(str, first['loc'][:2]))}: {first['msg']}".removeprefix(": ")) from None
    return valid if valid.run.name else _named(valid, ())


def _python_value(value: Any) -> Any:
    """The value of a numpy scalar; of anything else the name of its type, which no setting accepts."""
    # Importing numpy here would fix the number of its threads.
    return value.item() if type(value).__module__ == "numpy" and hasattr(value, "item") else f"a {type(value).__name__}"


def run_directory(config: Config) -> Path:
    """The folder of a run."""
    return Path(config.run.directory) / config.run.name


def as_yaml(config: Config) -> str:
    """The complete settings as YAML that ``--config`` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _settings(pairs: Iterable[tuple[str, str]], known: Mapping[str, Option]) -> Iterator[Setting]:
    for key, text in pairs:
        if key == CONFIG:
            yield from _of_file(Path(os.path.expanduser(text)), known)
        else:
            yield Setting(key, _value(known[key], parse_value(text), text), "")


def _of_file(path: Path, known: Mapping[str, Option]) -> Iterator[Setting]:
    for entry in parse_file(_read(path), str(path)):
        origin, key = f"{path}, line {entry.line}: ", f"{entry.section}.{entry.name}"
        if (key, entry.value) in WITHDRAWN.items():
            continue
        if key not in known:
            raise RequestError(origin + unknown_key(key, list(known)))
        yield Setting(key, _value(known[key], entry.value, entry.text), origin)
    yield from _place_of_run(path)


def _place_of_run(path: Path) -> Iterator[Setting]:
    """Name and directory of the run if the file is in a run's folder, which may have been copied or moved."""
    folder = path.parent
    if path.name == RUN_FILE and (folder / "checkpoints").is_dir():
        where = folder.resolve() if folder.name in ("", "..") else folder
        yield Setting("run.directory", str(where.parent), f"{path}: ")
        yield Setting("run.name", where.name, f"{path}: ")


def _read(path: Path) -> str:
    try:
        return read_text(path, MAX_BYTES)
    except OSError as error:
        raise RequestError(missing_file(path, error)) from None


def _value(option: Option, value: Any, text: str | None) -> Any:
    """The literal text for options that take text, else the YAML value. In paths, ``~`` and variables are expanded."""
    if value is None or text is None or not option.takes_text:
        return value
    return os.path.expanduser(os.path.expandvars(text)) if option.is_path else text


def _validated(settings: Mapping[str, Setting], known: Mapping[str, Option], schema: type[Schema]) -> Schema:
    values: dict[str, dict[str, Any]] = {section: {} for section in sections(schema)}
    for key, value, origin in settings.values():
        if not _is_sound(value) and not (known[key].is_unbounded and value == math.inf):
            raise RequestError(
                f"{origin}{key} is {written(value)}; expected finite numbers, integers below 2^53, and printable text"
            )
        section, _, name = key.partition(".")
        values[section][name] = value
    try:
        return TypeAdapter(schema).validate_json(to_json(values), strict=True)
    except ValidationError as error:
        key, message = _explanation(error.errors(), settings, known)
    raise RequestError(f"{settings[key].origin}{message}" if key in settings else message)


def _explanation(
    errors: Sequence[ErrorDetails], settings: Mapping[str, Setting], known: Mapping[str, Option]
) -> tuple[str, str]:
    """The first invalid key, and the message."""
    error = errors[0]
    if error["type"] == "value_error":  # raised by the schema itself
        message = str(error["ctx"]["error"])
        return next((key for key in _KEY.findall(message) if key in settings), ""), message
    key = ".".join(map(str, error["loc"][:2]))
    # Each type of a union has an error of its own, of the same input.
    texts = [one["msg"] for one in errors if one["loc"][:2] == error["loc"][:2] and one["input"] == error["input"]]
    text = " or ".join(dict.fromkeys(texts)).replace("or Input should be", "or")
    expected = text.replace("Input should be", "expected").replace("Field required", "expected more values")
    value = settings[key].value
    return key, f"{key} is {written(value)}; {expected}{_hint_of_list(value) if known[key].takes_list else ''}"


def _hint_of_list(value: Any) -> str:
    if type(value) in (int, float):
        return f"; write {written([value])}"
    return "; write a list in brackets, and quotes around text that starts with *" if isinstance(value, str) else ""


def _is_sound(value: Any) -> bool:
    """Whether numbers are finite, integers below 2^53, and text is printable."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_sound, value))
    if isinstance(value, str):
        return value.isprintable()
    return abs(value) <= _LARGEST if isinstance(value, int) else not isinstance(value, float) or math.isfinite(value)


def _named(config: Training, files: Sequence[str]) -> Training:
    """Name a run after its configuration file, or after its model and data set."""
    name = Path(files[-1]).stem if files else f"{config.model.name}-{config.data.name}"
    try:
        return dataclasses.replace(config, run=dataclasses.replace(config.run, name=name))
    except ValueError as error:
        raise RequestError(f"{error}; choose one with --run.name") from None


def _plain(value: Any) -> Any:
    """Convert tuples to lists: YAML's safe schema has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
