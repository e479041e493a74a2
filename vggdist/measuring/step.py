"""Images per second of the bare step and of the whole training around it, and where the time of each rank goes.

The shares are of the time of a step of the training, each on the rank's own clock:

- **data wait**: what the loop waited for its next batch. The device may have been busy meanwhile, for the loop is a step ahead
  of it; what was hidden so makes the rest smaller, even negative.
- **compute**: what the same bare step takes on this rank when its reduction is left out, while the other ranks do the same.
- **allreduce**: what the bare step takes longer with the reduction: transfer and waiting for slower ranks, as far as the
  backward pass does not hide them.
- **rest**: all else, such as checkpoints, reports, and threads that prepare batches on the same cores.
"""

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
from vggdist.measuring.series import Series, in_turn
from vggdist.reporting.report import Report, SilentReport
from vggdist.training.directory import open_directory
from vggdist.training.setup import Setup, prepare
from vggdist.training.step import StepOutcome, TrainStep
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
        else:
            seconds = (step - self._last_step) * metrics["time/step(ms)"] / 1000
            self._waited += seconds * metrics["time/data_wait(%)"] / 100
            if step >= self._start[0] + self._steps:
                self.steps_per_s = (step - self._start[0]) / (now - self._start[1])
                self.data_wait = 100 * self._waited / (now - self._start[1])
                raise _Enough
        self._last_step = step


def measure(request: BenchRequest, world: World, beat: Callable[[str], None]) -> dict[str, Any]:
    """Measure all in turn. Every rank must call this; of rates, rank 0's clock counts, for the ranks move in step.

    Returns:
        ``bare`` and ``training`` in images per second of all ranks, ``ratio``, and ``shares``: for each rank ``data_wait(%)``,
        ``compute(%)``, ``allreduce(%)`` and ``rest(%)`` of the training's time, each as
        :meth:`~vggdist.measuring.series.Series.as_json` has it. A batch that is filled up counts as full.
    """
    config, bench = measured_config(request), request.bench
    directory = run_directory(config)
    world.together(lambda: open_directory(directory, config) if world.is_root else None)
    setup = prepare(config, world)
    waits: list[float] = []

    def training() -> float:
        watch = _training(setup, bench, directory, beat)
        waits.append(watch.data_wait)
        return watch.steps_per_s * setup.plan.global_batch_size

    bare_step(setup, bench.warmup, beat)
    measurements = {"bare": lambda: bare_step(setup, bench.steps, beat), "training": training}
    if world.size > 1:
        measurements["compute"] = lambda: _computation(setup, bench.steps, beat)
    rates = in_turn(measurements, bench.repeats)
    if world.is_root:
        shutil.rmtree(directory)
    bare, trained = rates["bare"], rates["training"]
    shares = shares_of(trained, bare, rates.get("compute", bare), Series(waits))
    told = {"bare": bare, "training": trained, "ratio": trained.over(bare)}
    return {
        **{name: series.as_json() for name, series in told.items()},
        "shares": world.gather({name: series.as_json() for name, series in shares.items()}),
    }


def shares_of(training: Series, bare: Series, compute: Series, data_wait: Series) -> dict[str, Series]:
    """Percent of the training's time, as the head of this file has it.

    Args:
        training, bare, compute: images per second of the training, of the bare step, and of that without its reduction.
        data_wait: percent of the training's time.
    """
    turns = list(zip(training.values, bare.values, compute.values, data_wait.values))
    return {
        "data_wait(%)": data_wait,
        "compute(%)": Series([100 * whole / alone for whole, _, alone, _ in turns]),
        "allreduce(%)": Series([100 * whole * (1 / reduced - 1 / alone) for whole, reduced, alone, _ in turns]),
        "rest(%)": Series([100 - wait - 100 * whole / reduced for whole, reduced, _, wait in turns]),
    }


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


def bare_step(setup: Setup, steps: int, beat: Callable[[str], None], step: TrainStep | None = None) -> float:
    """Images per second of forward pass, backward pass, reduction and update alone, on the same batch again and again.

    Args:
        step: to make instead of the setup's own.
    """
    plan, step = setup.plan, step or setup.step
    batch = setup.training_view.batch(0, *plan.part(plan.order(0), 0, setup.world.rank))
    agreement = Agreement(setup.world, setup.device, lambda: False, lambda: False)
    former: list[StepOutcome] = []
    mx.nd.waitall()
    setup.world.barrier()
    started = time.perf_counter()
    rate = setup.schedule(setup.progress.step)
    for number in range(setup.progress.step, setup.progress.step + steps):  # two ballots on their way need two names
        beat("bare step")
        ballot = agreement.ballot()
        former.append(step(batch, number, rate, plan.num_valid(0), ballot, measure=False))
        agreement.read(ballot)
        if len(former) > 1:
            former.pop(0).loss.wait_to_read()  # the training's host is one step ahead, too
    mx.nd.waitall()
    seconds = time.perf_counter() - started
    setup.world.barrier()
    return steps * plan.num_valid(0) / seconds


def _computation(setup: Setup, steps: int, beat: Callable[[str], None]) -> float:
    """The bare step without its reduction, on all ranks at once; what the ranks' networks drift apart by it is undone."""
    kept = {name: array.copy() for name, array in setup.arrays.items()}
    rate = bare_step(setup, steps, beat, setup.step.alone())
    for name, array in setup.arrays.items():
        array[:] = kept[name]
    return rate


def _training(setup: Setup, bench: BenchConfig, directory: Path, beat: Callable[[str], None]) -> _Stopwatch:
    """Train with data, augmentation, logging and checkpoints, timed from report to report."""
    world, progress = setup.world, setup.progress
    progress.interval = None
    report = Report(directory, progress.step, setup.calendar.total_steps) if world.is_root else SilentReport()
    watch = _Stopwatch(report, progress.step + bench.warmup, bench.steps)
    with report, StopRequests(world.rank, world.size) as stop:
        try:
            Trainer(setup, watch, stop, beat).train()
        except _Enough:
            pass
    return watch
