"""The bare step: repeated forward pass, backward pass, reduction and update on one batch; its speed and its parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

import mxnet as mx

from vggdist.collectives.consensus import Consensus
from vggdist.collectives.world import World
from vggdist.training.setup import Training
from vggdist.training.step import StepOutcome, TrainStep


@dataclass(frozen=True)
class Parts:
    """Seconds of a bare step on one rank, as means over steps.

    Attributes:
        compute: forward pass, backward pass and update.
        rank_wait: until the last rank has finished its backward pass.
        allreduce: from then until the gradients are reduced; overlap with the backward pass is not included.
    """

    compute: float
    rank_wait: float
    allreduce: float


def bare_step(training: Training, steps: int, beat: Callable[[str], None]) -> float:
    """Images per second of all ranks, over a number of bare steps."""
    in_flight: list[StepOutcome] = []
    started = _synchronized_start(training)
    for outcome in _enqueued_steps(training, training.step, steps, beat):
        in_flight.append(outcome)
        if len(in_flight) > 1:
            in_flight.pop(0).loss.wait_to_read()  # as in training, the host is one step ahead
    mx.nd.waitall()
    seconds = time.perf_counter() - started
    training.world.barrier()
    return steps * training.inputs.plan.num_valid(0) / seconds


def parts_of_bare_step(training: Training, steps: int, beat: Callable[[str], None]) -> Parts:
    """The parts of a bare step on this rank; every rank must call this.

    A reduction ends on all ranks at the same time. So the rank with the shortest time for a step's reduction started it last
    and waited for no other rank: that time is the transfer. The excess on another rank is its rank wait.
    """
    computing, reducing = zip(*step_by_step(training, training.world, steps, beat))
    transfers = [min(of_ranks) for of_ranks in zip(*training.world.gather(reducing))]
    return Parts(fmean(computing), fmean(reducing) - fmean(transfers), fmean(transfers))


def step_by_step(training: Training, world: World, steps: int, beat: Callable[[str], None]) -> list[tuple[float, float]]:
    """Seconds of computation and of reduction of each bare step on this rank.

    The host waits for each step, unlike in a training.

    Args:
        world: the ranks of the reduction.
    """
    timed = _TimedCollectives(world)
    seconds: list[tuple[float, float]] = []
    started = _synchronized_start(training)
    for _ in _enqueued_steps(training, training.step.with_collectives(timed), steps, beat):
        reduction = timed.seconds_of_reduction()
        mx.nd.waitall()
        now = time.perf_counter()
        seconds.append((now - started - reduction, reduction))
        started = now
    return seconds


class _TimedCollectives:
    """Collectives that measure the time from this rank's start of a step's reduction to its end."""

    def __init__(self, world: World) -> None:
        self.size = world.size
        self._world = world
        self._before: list[mx.nd.NDArray] = []
        self._arrays: list[mx.nd.NDArray] = []

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        # One value of each is copied before the reduction: the copy is complete when the gradient is.
        self._before += [array.reshape(-1)[:1].copy() for array in arrays]
        self._arrays += arrays
        self._world.reduce(arrays, name)

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        self._before += [array.reshape(-1)[:1].copy() for array in arrays]
        self._arrays += outs
        self._world.allgather(arrays, outs, name)

    def seconds_of_reduction(self) -> float:
        """Wait for the reduction of the last enqueued step, and return its time; 0 if nothing is reduced."""
        for value in self._before:
            value.wait_to_read()
        started = time.perf_counter()
        for array in self._arrays:
            array.wait_to_read()
        seconds = time.perf_counter() - started if self._arrays else 0.0
        self._before, self._arrays = [], []
        return seconds


def _enqueued_steps(training: Training, step: TrainStep, steps: int, beat: Callable[[str], None]) -> Iterator[StepOutcome]:
    """Steps on the same batch; each is yielded when it has been enqueued."""
    plan, first = training.inputs.plan, training.state.progress.step
    batch = training.inputs.training_view.batch(0, *plan.part(plan.order(0), 0, training.world.rank))
    consensus = Consensus(training.world, training.device, lambda: False, lambda: False)
    rate = training.state.schedule(first)
    for number in range(first, first + steps):  # two sets of flags in flight need two names
        beat("bare step")
        flags = consensus.local_flags()
        yield step(batch, number, rate, plan.num_valid(0), flags, measure=False)
        consensus.read(flags)


def _synchronized_start(training: Training) -> float:
    """Wait until all ranks are idle, and return the time."""
    mx.nd.waitall()
    training.world.barrier()
    return time.perf_counter()
