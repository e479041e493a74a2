"""List the runs in a folder, or compare runs: ``vggdist runs``. Read-only; does not import MXNet."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from vggdist.config.errors import RequestError, VggdistError, written
from vggdist.config.text import printable
from vggdist.processes import streams
from vggdist.reporting.run_record import RunRecord, is_run, read_run, runs_in, settings

_DEFAULT = Path("runs")
_SHORTEST_NAME = 12
_GAP = 2
_PATHS = ("run.name", "run.directory", "data.root")
"""Settings that are locations, which are not compared."""
_METRICS = ("eval", "validation", "eval_train", "train")
"""Prefixes of the metrics that are compared, in this order."""


class _Column(NamedTuple):
    title: str
    cells: list[str]
    to_right: bool = False

    @property
    def width(self) -> int:
        return max(map(len, [self.title, *self.cells]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table and return the exit code."""
    streams.protect()
    try:
        args = _parser().parse_args(arguments)
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(_lines([Path(os.path.expanduser(one)) for one in args.paths], width)), flush=True)
    except VggdistError as error:
        print(f"vggdist: {error}", file=sys.stderr)
        return error.exit_code
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message} (vggdist runs --help)")


def _parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="vggdist runs",
        usage="%(prog)s [DIR] | RUN RUN ...",
        description="List the runs in a folder (default: runs), the last modified first; or compare two or more runs: the "
        "settings that differ, and the results. RUN is a run's folder, or its name in runs.",
        epilog="States: finished; stopped (the same command resumes it); failed; refused; running; died: the process ended "
        "without reporting a result; running?: its host is another one. images/s: median of the newest reports.",
        allow_abbrev=False,
    )
    made.add_argument("paths", nargs="*", metavar="PATH", help="a folder of runs, or two or more runs")
    return made


def _lines(paths: Sequence[Path], width: int | None) -> Iterator[str]:
    if len(paths) > 1:
        yield from comparison([_run(path) for path in paths], width)
        return
    folder = paths[0] if paths else _DEFAULT
    found = runs_in(folder)
    if not found:
        raise RequestError(f"{folder} has no runs; specify a folder whose subfolders are runs")
    yield from overview([read_run(path) for path in found], width)


def _run(path: Path) -> Path:
    """Find the folder of a run by its path or name."""
    for place in (path, _DEFAULT / path):
        if is_run(place):
            return place
    raise RequestError(f"{path} is not the folder of a run")


def overview(runs: Sequence[RunRecord], width: int | None = None) -> list[str]:
    """A table of runs, the last modified first.

    Args:
        width: width of the terminal in characters: less important columns are dropped and long names are shortened. None: no
            limit.
    """
    ordered = sorted(runs, key=lambda run: (-(run.changed or 0), run.path.name))
    metrics = {run.best_metric.partition("/")[2] for run in ordered if run.best_metric}
    common = metrics.pop() if len(metrics) == 1 else None
    columns = [
        _Column("run", [printable(run.path.name or run.path.resolve().name) for run in ordered]),
        _Column("state", [printable(run.state or "unknown") for run in ordered]),
        _Column("step", [_step(run) for run in ordered], to_right=True),
        _Column(f"best {common or 'metric'}", [_best(run, common) for run in ordered]),
        _Column("at step", [_count(run.best_step) for run in ordered], to_right=True),
        _Column("images/s", [_figure(run.images_per_s, ",.0f") for run in ordered], to_right=True),
        _Column("ranks", [_count(run.result.get("world_size")) for run in ordered], to_right=True),
        _Column("changed", [_ago(run.age) for run in ordered], to_right=True),
    ]
    for title in ("ranks", "at step"):
        others = sum(column.width + _GAP for column in columns[1:])
        if width is not None and others + min(columns[0].width, 2 * _SHORTEST_NAME) > width:
            columns = [column for column in columns if column.title != title]
    return _table(columns, width)


def comparison(paths: Sequence[Path], width: int | None = None) -> list[str]:
    """A table of the settings that differ between runs, and their results.

    Args:
        width: width of the terminal in characters, to which long values are shortened; None: no limit.

    Raises:
        RequestError: a configuration cannot be read.
    """
    configs, runs = [settings(path) for path in paths], [read_run(path) for path in paths]
    keys = [key for key in dict.fromkeys(key for one in configs for key in one) if key not in _PATHS]
    keys = [key for key in keys if any(key not in one or one[key] != configs[0].get(key) for one in configs)]
    rows = [(key, [_setting(one[key]) if key in one else "-" for one in configs]) for key in keys]
    rows = rows or [("(the same settings)", [""] * len(runs))]
    outcome = list(_outcome(runs))
    titles = [printable(path) for path in paths]
    columns = [
        _Column("", ["configuration", *(f"  {key}" for key, _ in rows), "outcome", *(f"  {key}" for key, _ in outcome)])
    ]
    for number, title in enumerate(titles):
        cells = ["", *(cells[number] for _, cells in rows), "", *(cells[number] for _, cells in outcome)]
        columns.append(_Column(title, [printable(cell) for cell in cells]))
    return _table(columns, width)


def _outcome(runs: Sequence[RunRecord]) -> Iterator[tuple[str, list[str]]]:
    yield "state", [run.state or "unknown" for run in runs]
    yield "step", [_step(run) for run in runs]
    yield "best", [_best(run) for run in runs]
    yield "at step", [_count(run.best_step) for run in runs]
    shown = dict.fromkeys(key for run in runs for key in run.metrics if key.partition("/")[0] in _METRICS)
    for key in sorted(shown, key=lambda key: _METRICS.index(key.partition("/")[0])):
        yield key, [_figure(run.metrics.get(key), ".4g") for run in runs]
    yield "images/s", [_figure(run.images_per_s, ",.0f") for run in runs]
    yield "ranks", [_count(run.result.get("world_size")) for run in runs]
    yield "device", [str(run.result.get("device") or "-") for run in runs]
    yield "seconds of the newest job", [_figure(run.result.get("seconds"), ",.0f") for run in runs]
    yield "changed", [_ago(run.age) for run in runs]
    if any(run.result.get("error") for run in runs):
        yield "error", [str(run.result.get("error") or "-") for run in runs]


def _table(columns: Sequence[_Column], width: int | None) -> list[str]:
    """Format columns with a heading; the widest cells are shortened to fit the width."""
    widths = _fitted([column.width for column in columns], width)
    lines = []
    for row in zip(*([column.title, *column.cells] for column in columns)):
        cells = (_cut(cell, room) for cell, room in zip(row, widths))
        placed = (
            cell.rjust(room) if column.to_right else cell.ljust(room) for cell, room, column in zip(cells, widths, columns)
        )
        lines.append((" " * _GAP).join(placed).rstrip())
    return lines


def _fitted(widths: list[int], total: int | None) -> list[int]:
    """Reduce the widest columns until all fit into ``total``."""
    widths = list(widths)
    while total is not None and sum(widths) + _GAP * (len(widths) - 1) > total and max(widths) > _SHORTEST_NAME:
        widths[widths.index(max(widths))] -= 1
    return widths


def _cut(text: str, width: int) -> str:
    """Shorten a text in the middle, because names of runs often differ at the end."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def _setting(value: Any) -> str:
    return value if isinstance(value, str) else written(value)


def _step(run: RunRecord) -> str:
    if run.step is None:
        return "-"
    return f"{run.step:,}" if run.total_steps is None else f"{run.step:,}/{run.total_steps:,}"


def _best(run: RunRecord, common: str | None = None) -> str:
    """The best value and its metric, or only the prefix of the metric if the heading has the metric."""
    if run.best_value is None or run.best_metric is None:
        return "-"
    part, _, metric = run.best_metric.partition("/")
    return f"{run.best_value:<5.4g} {part if metric == common else run.best_metric}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "-"


def _figure(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) else "-"


def _ago(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


if __name__ == "__main__":
    sys.exit(main())
