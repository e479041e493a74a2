"""From a command line to one :class:`~vggdist.config.schema.Config`: read once, before MXNet is imported."""

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
_CHOOSING = {CONFIG, "data.name", "model.name"}

Schema = TypeVar("Schema")
Training = TypeVar("Training", bound=Config)


class Setting(NamedTuple):
    """A value that was given.

    Attributes:
        origin: file and line, as messages begin with them; empty for a flag.
    """

    key: str
    value: Any
    origin: str


def train_parser(command: str = "train") -> SettingsParser:
    """The command line of the commands that take a training's settings and nothing else."""
    note = "Without --config, --data.name and --model.name it is the quickstart on digits."
    return SettingsParser(command, Config, first=MOST_USED, title="most used", description=note)


def load(command: str, arguments: Sequence[str]) -> Config:
    """The settings of a training; see :func:`training_settings`. ``SystemExit`` with code 0 after ``--help``."""
    return training_settings(train_parser(command).parse(arguments).settings, Config)


def training_settings(given: Sequence[tuple[str, str]], schema: type[Training]) -> Training:
    """The settings of a training, or of what is asked of one; without any choice those of the quickstart.

    Raises:
        RequestError: as :func:`resolve`.
    """
    files = [text for key, text in given if key == CONFIG]
    if _CHOOSING.isdisjoint(key for key, _ in given):
        given = [(CONFIG, str(QUICKSTART)), *given]
    config = resolve(given, schema)
    return _named(config, files) if not config.run.name else config


def resolve(given: Sequence[tuple[str, str]], schema: type[Schema], before: Iterable[Setting] = ()) -> Schema:
    """The settings that a command line means: defaults, then files and flags in their order.

    Args:
        given: as :class:`~vggdist.config.command_line.SettingsParser` returns them.
        before: what counts where nothing else is given.

    Raises:
        RequestError: for an unknown key (with the key that was probably meant), a value of the wrong type or out of range,
            or a file that cannot be read; the message names the key, and the file and line where it is from one.
    """
    known = options(schema)  # type: ignore[arg-type]
    settings = {setting.key: setting for setting in (*before, *_settings(given, known))}
    return _validated(settings, known, schema)


def settings_of_run(folder: Path, schema: Any) -> list[Setting]:
    """What the configuration in a run's folder says of the options of a schema; nothing where there is none.

    Raises:
        RequestError: it cannot be read.
    """
    path, asked = folder / RUN_FILE, options(schema)
    return [one for one in _of_file(path, options(Config)) if one.key in asked] if path.is_file() else []


def checked(config: Config) -> Config:
    """A configuration that a program made, with every type checked, and a name if it has none.

    Raises:
        RequestError: naming the first key that is not as it should be.
    """
    try:
        found = TypeAdapter(Config).validate_json(to_json(dataclasses.asdict(config)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(f"{'.'.join(map(str, first['loc'][:2]))}: {first['msg']}".removeprefix(": ")) from None
    return found if found.run.name else _named(found, ())


def run_directory(config: Config) -> Path:
    """The folder of a run."""
    return Path(config.run.directory) / config.run.name


def as_yaml(config: Config) -> str:
    """The complete settings as YAML that ``--config`` reads back."""
    return yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False)


def _settings(given: Iterable[tuple[str, str]], known: Mapping[str, Option]) -> Iterator[Setting]:
    for key, text in given:
        if key == CONFIG:
            yield from _of_file(Path(text).expanduser(), known)
        else:
            yield Setting(key, _value(known[key], parse_value(text), text), "")


def _of_file(path: Path, known: Mapping[str, Option]) -> Iterator[Setting]:
    for entry in parse_file(_read(path), str(path)):
        origin, key = f"{path}, line {entry.line}: ", f"{entry.section}.{entry.name}"
        if key not in known:
            raise RequestError(origin + unknown_key(key, list(known)))
        yield Setting(key, _value(known[key], entry.value, entry.text), origin)
    yield from _place_of_run(path)


def _place_of_run(path: Path) -> Iterator[Setting]:
    """The configuration in a run's folder is that run's, wherever the folder was copied or moved to."""
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
    """What was written, where the option takes text; else as YAML reads it. A path means what a shell means by it."""
    if value is None or text is None or not option.takes_text:
        return value
    return os.path.expanduser(os.path.expandvars(text)) if option.is_path else text


def _validated(settings: Mapping[str, Setting], known: Mapping[str, Option], schema: type[Schema]) -> Schema:
    asked: dict[str, dict[str, Any]] = {section: {} for section in sections(schema)}
    for key, value, origin in settings.values():
        if not _is_sound(value) and not (known[key].is_unbounded and value == math.inf):
            raise RequestError(
                f"{origin}{key} is {written(value)}; expected finite numbers, whole ones below 2^53, and printable text"
            )
        section, _, name = key.partition(".")
        asked[section][name] = value
    try:
        return TypeAdapter(schema).validate_json(to_json(asked), strict=True)
    except ValidationError as error:
        key, message = _explanation(error.errors()[0], settings, known)
    raise RequestError(f"{settings[key].origin}{message}" if key in settings else message)


def _explanation(error: ErrorDetails, settings: Mapping[str, Setting], known: Mapping[str, Option]) -> tuple[str, str]:
    """The key at fault, and what is wrong with it."""
    if error["type"] == "value_error":  # raised by the schema itself
        message = str(error["ctx"]["error"])
        return next((key for key in _KEY.findall(message) if key in settings), ""), message
    key = ".".join(map(str, error["loc"][:2]))
    expected = error["msg"].replace("Input should be", "expected").replace("Field required", "expected more values")
    value = settings[key].value
    hint = f"; write {written([value])}" if known[key].takes_list and type(value) in (int, float) else ""
    return key, f"{key} is {written(value)}; {expected}{hint}"


def _is_sound(value: Any) -> bool:
    """Whether numbers are finite and of a sane size, and text can be written."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_sound, value))
    if isinstance(value, str):
        return value.isprintable()
    return abs(value) <= _LARGEST if isinstance(value, int) else not isinstance(value, float) or math.isfinite(value)


def _named(config: Training, files: Sequence[str]) -> Training:
    """Give a run without a name that of its configuration file, or of its network and data."""
    name = Path(files[-1]).stem if files else f"{config.model.name}-{config.data.name}"
    try:
        return dataclasses.replace(config, run=dataclasses.replace(config.run, name=name))
    except ValueError as error:
        raise RequestError(f"{error}; choose one with --run.name") from None


def _plain(value: Any) -> Any:
    """Tuples as lists: YAML's safe form has no tuples."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
