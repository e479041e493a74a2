"""Images per second of the bare step and of the whole training, and the shares of each rank's time.

The shares are of the time of a training step, on each rank's own clock:

- **data wait**: time in which the loop waited for its next batch. The device may have been busy meanwhile, since the loop is a
  step ahead of it; this overlap makes the rest smaller, even negative.
- **compute**: forward pass, backward pass and update.
- **rank wait**: from the end of this rank's backward pass until the last rank has finished its own.
- **allreduce**: from then until the gradients are reduced. Overlap with the backward pass is not included.
- **rest**: everything else, such as checkpoints, reports, and threads that prepare batches on the same cores.

Compute, rank wait and allreduce are those of bare steps that the host waits for one by one, measured in turn with the others.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vggdist.benchmarking.bare_step import Parts, bare_step, parts_of_bare_step
from vggdist.benchmarking.series import Series, in_turn
from vggdist.benchmarking.tables import SHARES
from vggdist.collectives.world import World
from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.config.errors import RunError, Stopped, agreed
from vggdist.config.load import run_directory
from vggdist.config.schema import Config, EvaluationConfig
from vggdist.processes.signals import StopRequests
from vggdist.reporting.report import Report, RunReport
from vggdist.training.setup import Training, prepare
from vggdist.training.trainer import Trainer


class _Stopwatch(Report):
    """Forwards to a report, measures the time between reports, and requests a stop after enough steps."""

    def __init__(self, report: Report, first_step: int, steps: int, stop: StopRequests) -> None:
        self._report, self._first_step, self._steps, self._stop = report, first_step, steps, stop
        self._start: tuple[int, float] | None = None
        self._last_step, self._waited = 0, 0.0
        self.steps_per_s = 0.0
        self.data_wait = 0.0  # percent of the time

    def advance(self, step: int) -> None:
        self._report.advance(step)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self._report.training(step, epoch, metrics)
        now = time.perf_counter()
        if self._start is None:
            if step >= self._first_step:
                self._start = step, now
        elif self.steps_per_s == 0:
            seconds = (step - self._last_step) * metrics["time/step(ms)"] / 1000
            self._waited += seconds * metrics["time/data_wait(%)"] / 100
            if step >= self._start[0] + self._steps:
                self.steps_per_s = (step - self._start[0]) / (now - self._start[1])
                self.data_wait = 100 * self._waited / (now - self._start[1])
                self._stop.request("the end of the measurement")
        self._last_step = step


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Measure all in turn. Every rank must call this; rates are by rank 0's clock, since the ranks are synchronous.

    Returns:
        ``bare`` and ``training`` in images per second of all ranks, ``ratio``, and ``shares``: for each rank ``data_wait(%)``,
        ``compute(%)``, ``rank_wait(%)``, ``allreduce(%)`` and ``rest(%)`` of the training's time, each as
        :meth:`~vggdist.benchmarking.series.Series.as_json` has it. A padded batch counts as full.
    """
    suffix = world.gather(uuid.uuid4().hex[:8])[0]
    config, bench = measured_config(request, f"bench-{suffix}"), request.bench
    directory = run_directory(config)
    training = prepare(config, world)
    world.together(lambda: directory.mkdir(parents=True) if world.is_root else None)
    seconds: list[float] = []
    data_waits: list[float] = []
    parts: list[Parts] = []

    def whole() -> float:
        watch = _training(training, bench, directory, beat)
        seconds.append(1 / watch.steps_per_s)
        data_waits.append(watch.data_wait)
        return watch.steps_per_s * training.inputs.plan.global_batch_size

    def step_parts() -> float:
        parts.append(parts_of_bare_step(training, bench.steps, beat))
        return parts[-1].compute

    try:
        bare_step(training, bench.warmup, beat)
        bare = partial(bare_step, training, bench.steps, beat)
        rates = in_turn({"bare": bare, "training": whole, "parts": step_parts}, bench.repeats)
    finally:
        if world.is_root:
            shutil.rmtree(directory, ignore_errors=True)
    shares = shares_of(seconds, data_waits, parts)
    measured = {"bare": rates["bare"], "training": rates["training"], "ratio": rates["training"].over(rates["bare"])}
    return {
        **{name: series.as_json() for name, series in measured.items()},
        "shares": world.gather({name: series.as_json() for name, series in shares.items()}),
    }


def shares_of(seconds: Sequence[float], data_waits: Sequence[float], parts: Sequence[Parts]) -> dict[str, Series]:
    """Percent of the training's time in each turn, as defined at the top of this file.

    Args:
        seconds: of a step of the training.
        data_waits: percent of the training's time.
        parts: of a bare step.
    """
    shares: dict[str, list[float]] = {key: [] for key in SHARES}
    for whole, data_wait, bare in zip(seconds, data_waits, parts):
        known = [data_wait, *(100 * part / whole for part in (bare.compute, bare.rank_wait, bare.allreduce))]
        for share, value in zip(shares.values(), [*known, 100 - sum(known)]):
            share.append(value)
    return {key: Series(share) for key, share in shares.items()}


def measured_config(request: BenchRequest, name: str) -> Config:
    """The measured run: as requested, but in a separate folder, long enough, with checkpoints and without evaluations.

    Unless ``checkpoint.every_steps`` is set, each measurement includes two checkpoints, more than most runs make.
    """
    run, bench = request.run, request.bench
    every = request.checkpoint.every_steps or bench.steps // 2
    # A measurement ends with a report, and the ranks stop two steps later.
    longest = bench.repeats * (bench.warmup + bench.steps + 2 * run.log_every + 2) + 1
    return Config(
        run=replace(run, directory=str(Path(run.directory) / run.name), name=name, resume="never"),
        model=request.model,
        data=request.data,
        augment=request.augment,
        optimizer=request.optimizer,
        schedule=replace(request.schedule, warmup_epochs=0.0),
        train=replace(request.train, steps=longest),
        evaluation=EvaluationConfig(every_epochs=0),
        checkpoint=replace(request.checkpoint, every_steps=every),
    )


def _training(training: Training, bench: BenchConfig, directory: Path, beat: Callable[[str], None]) -> _Stopwatch:
    """Train with data, augmentation, logging and checkpoints, timed from report to report."""
    world, progress = training.world, training.state.progress
    progress.interval = None
    report = RunReport(directory, progress.step, training.state.triggers.total_steps) if world.is_root else Report()
    with report, StopRequests(world.rank, world.size) as stop:
        watch = _Stopwatch(report, progress.step + bench.warmup, bench.steps, stop)
        try:
            Trainer(training, watch, stop, beat).train()
        except Stopped:
            if watch.steps_per_s == 0:
                raise agreed(RunError("stopped before the measurement was complete")) from None
    return watch
