"""Options of the commands that use a trained network (evaluate, predict, export)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from vggdist.config.command_line import SettingsParser
from vggdist.config.errors import RequestError
from vggdist.config.evaluation import MeasuringConfig
from vggdist.config.images import ReadingConfig, SourceConfig
from vggdist.config.load import RUN_FILE, resolve, settings_of_run
from vggdist.config.schema import ArithmeticConfig, DeviceConfig, ExecutionConfig, WorldConfig

BEST, LATEST = "best", "latest"


@dataclass(frozen=True)
class InferenceConfig:
    """How a trained network computes. Defaults are taken from its run's configuration if there is one."""

    run: DeviceConfig = field(default_factory=DeviceConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    data: ReadingConfig = field(default_factory=ReadingConfig)
    train: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    evaluation: MeasuringConfig = field(default_factory=MeasuringConfig)


@dataclass(frozen=True)
class MeasuredDataConfig(SourceConfig):
    """Which images are evaluated, and how they are read."""

    part: Literal["test", "train", "validation"] = "test"
    """Split to evaluate. train and validation are split by data.validation as in training."""


@dataclass(frozen=True)
class EvaluateConfig(InferenceConfig):
    """How a trained network is evaluated."""

    run: ExecutionConfig = field(default_factory=ExecutionConfig)
    data: MeasuredDataConfig = field(default_factory=MeasuredDataConfig)


@dataclass(frozen=True)
class ExportConfig:
    """How an export is verified. It is computed on the CPU: GPUs round float32 to TF32."""

    world: WorldConfig = field(default_factory=WorldConfig)
    data: ReadingConfig = field(default_factory=ReadingConfig)

    @property
    def run(self) -> DeviceConfig:
        """The device."""
        return DeviceConfig(device="cpu")


Schema = TypeVar("Schema")


class Place(NamedTuple):
    """Location of a checkpoint.

    Attributes:
        run: the folder of its run; None if the checkpoint is outside a run.
        checkpoint: ``best``, ``latest``, a step, or the folder of a checkpoint.
    """

    run: Path | None
    checkpoint: str


def add_run(parser: SettingsParser) -> None:
    """Add the arguments that select a run and one of its checkpoints."""
    parser.add_argument("run", metavar="RUN", help="folder of a run, such as runs/quickstart, or of a checkpoint")
    parser.add_argument(
        "--checkpoint",
        metavar="best|latest|STEP|PATH",
        help="checkpoint: the best by checkpoint.best_metric, the latest, that of a step, or a folder (default: best)",
    )


def place(run: str, checkpoint: str | None) -> Place:
    """Locate the checkpoint that the arguments of :func:`add_run` select.

    Raises:
        RequestError: there is no such folder.
    """
    folder = Path(os.path.expanduser(run))
    if not os.path.isdir(folder):
        raise RequestError(f"{run} is not a folder; specify the folder of a run, such as runs/quickstart, or of a checkpoint")
    if (folder / "state.json").is_file():
        if checkpoint not in (None, BEST):
            raise RequestError(f"{run} is a checkpoint; remove --checkpoint, or specify the folder of the run")
        return Place(_run_of(folder), str(folder))
    chosen = checkpoint or BEST
    if chosen in (BEST, LATEST) or chosen.isdecimal():
        return Place(folder, chosen)
    if not (Path(chosen) / "state.json").is_file():
        raise RequestError(f"--checkpoint {chosen} is neither best, latest, a step nor the folder of a checkpoint")
    return Place(folder, chosen)


def require_one_process(command: str, processes: int) -> None:
    """Raise ``RequestError`` if a launcher started several processes, each of which would do all of the work."""
    if processes > 1:
        raise RequestError(f"{command} runs in one process, but a launcher started {processes}; start it without a launcher")


def _run_of(checkpoint: Path) -> Path | None:
    """The run that contains a checkpoint, if there is one."""
    run = checkpoint.resolve().parent.parent
    return run if (run / RUN_FILE).is_file() else None


def settings(where: Place, pairs: Sequence[tuple[str, str]], schema: type[Schema]) -> Schema:
    """The settings of a command: the run's settings over the defaults, flags over both.

    Raises:
        RequestError: as :func:`~vggdist.config.load.resolve`.
    """
    return resolve(pairs, schema, settings_of_run(where.run, schema) if where.run is not None else ())
