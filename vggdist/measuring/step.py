"""Images per second of the bare step, and of the whole training around it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mxnet as mx

from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.config.load import run_directory
from vggdist.config.schema import Config, EvaluationConfig
from vggdist.measuring.series import in_turn
from vggdist.reporting.report import Report, SilentReport
from vggdist.training.directory import open_directory
from vggdist.training.setup import Setup, prepare
from vggdist.training.step import StepOutcome
from vggdist.training.trainer import Trainer
from vggdist.world.agreement import Agreement
from vggdist.world.process import World
from vggdist.world.signals import StopRequests


class _Enough(Exception):
    """The training was measured long enough."""


class _Stopwatch(SilentReport):
    """Hands on to a report, notes when the device was read, and ends the training with :class:`_Enough`."""

    def __init__(self, report: Report, first_step: int, steps: int) -> None:
        self._report, self._first_step, self._steps = report, first_step, steps
        self.start: tuple[int, float] | None = None
        self.steps_per_s = 0.0

    def advance(self, step: int) -> None:
        self._report.advance(step)

    def training(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        self._report.training(step, epoch, metrics)
        now = time.perf_counter()
        if self.start is None and step >= self._first_step:
            self.start = step, now
        elif self.start is not None and step >= self.start[0] + self._steps:
            self.steps_per_s = (step - self.start[0]) / (now - self.start[1])
            raise _Enough


def measure_step(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Measure both in turn. Every rank must call this; rank 0's clock counts, for the ranks move in step.

    Returns:
        ``bare`` and ``training`` in images per second of all ranks, and ``ratio``, each as
        :meth:`~vggdist.measuring.series.Series.as_json` has it. A batch that is filled up counts as full.
    """
    config, bench = measured_config(request), request.bench
    directory = run_directory(config)
    world.together(lambda: open_directory(directory, config) if world.is_root else None)
    setup = prepare(config, world)
    _bare(setup, bench.warmup, beat)
    rates = in_turn(
        {"bare": lambda: _bare(setup, bench.steps, beat), "training": lambda: _training(setup, bench, directory, beat)},
        bench.repeats,
    )
    if world.is_root:
        shutil.rmtree(directory)
    ratio = rates["training"].over(rates["bare"])
    return {name: series.as_json() for name, series in {**rates, "ratio": ratio}.items()}


def measured_config(request: BenchRequest) -> Config:
    """The run that is measured: the one that is asked for, in a folder of its own, long enough, with checkpoints in it.

    Two checkpoints fall into each measurement where ``checkpoint.every_steps`` says nothing else: more than in most runs. The
    test set is not evaluated.
    """
    run, bench = request.run, request.bench
    every = request.checkpoint.every_steps or bench.steps // 2
    longest = bench.repeats * (bench.warmup + bench.steps + 2 * run.log_every) + 1  # a measurement ends with a report
    return Config(
        run=replace(run, directory=str(Path(run.directory) / run.name), name="bench", resume="never", overwrite=True),
        model=request.model,
        data=request.data,
        augment=request.augment,
        optimizer=request.optimizer,
        schedule=replace(request.schedule, warmup_epochs=0.0),
        train=replace(request.train, steps=longest),
        evaluation=EvaluationConfig(every_epochs=0),
        checkpoint=replace(request.checkpoint, every_steps=every),
    )


def _bare(setup: Setup, steps: int, beat: Callable[[str], None]) -> float:
    """Images per second of forward pass, backward pass, reduction and update alone, on the same batch again and again."""
    plan = setup.plan
    batch = setup.training_view.batch(0, *plan.part(plan.order(0), 0, setup.world.rank))
    agreement = Agreement(setup.world, setup.device, lambda: False, lambda: False)
    former: list[StepOutcome] = []
    mx.nd.waitall()
    setup.world.barrier()
    started = time.perf_counter()
    for _ in range(steps):
        beat("bare step")
        rate, step = setup.schedule(setup.progress.step), setup.progress.step
        former.append(setup.step(batch, step, rate, plan.num_valid(0), agreement.ballot(), measure=False))
        if len(former) > 1:
            former.pop(0).loss.wait_to_read()  # the training's host is one step ahead, too
    mx.nd.waitall()
    setup.world.barrier()
    return steps * plan.num_valid(0) / (time.perf_counter() - started)


def _training(setup: Setup, bench: BenchConfig, directory: Path, beat: Callable[[str], None]) -> float:
    """Images per second of the training with data, augmentation, logging and checkpoints, from report to report."""
    world, progress = setup.world, setup.progress
    progress.interval = None
    report = Report(directory, progress.step, setup.calendar.total_steps) if world.is_root else SilentReport()
    watch = _Stopwatch(report, progress.step + bench.warmup, bench.steps)
    with report, StopRequests(world.rank, world.size) as stop:
        try:
            Trainer(setup, watch, stop, beat).train()
        except _Enough:
            pass
    return watch.steps_per_s * setup.plan.global_batch_size
