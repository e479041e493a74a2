"""What can be asked for of a trained network, beside the run that it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import RequestError
from vggdist.config.images import ReadingConfig, SourceConfig
from vggdist.config.load import RUN_FILE, resolve, settings_of_run
from vggdist.config.schema import ArithmeticConfig, DeviceConfig, ExecutionConfig, MeasuringConfig, WorldConfig

BEST, LATEST = "best", "latest"


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained network computes. What is not given is as in the configuration of its run, where that is there."""

    run: DeviceConfig = field(default_factory=DeviceConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    data: ReadingConfig = field(default_factory=ReadingConfig)
    train: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    evaluation: MeasuringConfig = field(default_factory=MeasuringConfig)


@dataclass(frozen=True)
class MeasuredDataConfig(SourceConfig):
    """Which images are measured, and how they are read."""

    part: Literal["test", "train", "validation"] = "test"
    """Which part: the test set, the part that trains, or what data.validation holds out of it."""


@dataclass(frozen=True)
class EvaluateConfig(InferenceConfig):
    """How a trained network is measured."""

    run: ExecutionConfig = field(default_factory=ExecutionConfig)
    data: MeasuredDataConfig = field(default_factory=MeasuredDataConfig)


@dataclass(frozen=True)
class ExportConfig:
    """How an export is checked. It computes on the CPU, whose float32 is not rounded to TF32 as that of a GPU."""

    world: WorldConfig = field(default_factory=WorldConfig)
    data: ReadingConfig = field(default_factory=ReadingConfig)

    @property
    def run(self) -> DeviceConfig:
        """The device."""
        return DeviceConfig(device="cpu")


Schema = TypeVar("Schema")


class Place(NamedTuple):
    """Where a checkpoint is to be found.

    Attributes:
        run: the folder of its run; None: a checkpoint alone.
        checkpoint: ``best``, ``latest``, a step, or the folder of a checkpoint.
    """

    run: Path | None
    checkpoint: str


def add_run(parser: SettingsParser) -> None:
    """Let a command line name a run and one of its checkpoints."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, such as runs/quickstart, or of one checkpoint")
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP|PATH",
        help="which one: the best by checkpoint.best_metric, the newest, that of a step, or a folder (default: best)",
    )


def place(run: str, checkpoint: str | None) -> Place:
    """What the words of :func:`add_run` mean.

    Raises:
        RequestError: there is no such folder.
    """
    folder = Path(run).expanduser()
    if not folder.is_dir():
        raise RequestError(f"{run} is not a folder; name that of a run, such as runs/quickstart, or of a checkpoint")
    if (folder / "state.json").is_file():
        if checkpoint not in (None, BEST):
            raise RequestError(f"{run} is one checkpoint; leave out --checkpoint, or name the folder of the run")
        return Place(_run_of(folder), str(folder))
    chosen = checkpoint or BEST
    if chosen in (BEST, LATEST) or chosen.isdecimal():
        return Place(folder, chosen)
    if not (Path(chosen) / "state.json").is_file():
        raise RequestError(f"--checkpoint {chosen} is neither best, latest, a step nor the folder of a checkpoint")
    return Place(folder, chosen)


def require_one_process(command: str, processes: int) -> None:
    """Refuse a launcher that starts several processes, of which each would do all of the work."""
    if processes > 1:
        raise RequestError(f"{command} computes in one process, and a launcher started {processes}; start it without one")


def _run_of(checkpoint: Path) -> Path | None:
    """The run whose checkpoint this is, where it lies in its folder."""
    run = checkpoint.resolve().parent.parent
    return run if (run / RUN_FILE).is_file() else None


def settings(where: Place, given: Sequence[tuple[str, str]], schema: type[Schema]) -> Schema:
    """The settings of a command: defaults, then what the run had, then flags.

    Raises:
        RequestError: as :func:`~vggdist.config.load.resolve`.
    """
    return resolve(given, schema, settings_of_run(where.run, schema) if where.run is not None else ())
