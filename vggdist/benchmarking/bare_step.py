"""The bare step: forward pass, backward pass, reduction and update on one batch, again and again; whole, and taken apart."""

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
        allreduce: from then until the gradients are reduced; what the backward pass hides is no part of it.
    """

    compute: float
    rank_wait: float
    allreduce: float


def bare_step(training: Training, steps: int, beat: Callable[[str], None]) -> float:
    """Images per second of all ranks in some bare steps."""
    former: list[StepOutcome] = []
    started = _together(training)
    for outcome in _handed_over(training, training.step, steps, beat):
        former.append(outcome)
        if len(former) > 1:
            former.pop(0).loss.wait_to_read()  # the training's host is one step ahead, too
    mx.nd.waitall()
    seconds = time.perf_counter() - started
    training.world.barrier()
    return steps * training.inputs.plan.num_valid(0) / seconds


def parts_of_bare_step(training: Training, steps: int, beat: Callable[[str], None]) -> Parts:
    """Where the time of a bare step goes on this rank; every rank must call this.

    A reduction ends on all ranks at the same time. So the rank on which a step's reduction took the shortest time came to it
    last and waited for nobody: that time is the transfer. What it took longer on another rank, that one waited.
    """
    computing, reducing = zip(*step_by_step(training, training.world, steps, beat))
    transfers = [min(of_ranks) for of_ranks in zip(*training.world.gather(reducing))]
    return Parts(fmean(computing), fmean(reducing) - fmean(transfers), fmean(transfers))


def step_by_step(training: Training, world: World, steps: int, beat: Callable[[str], None]) -> list[tuple[float, float]]:
    """Seconds that each of some bare steps computed, and that its gradients' reduction took, on this rank.

    The host waits for each step, which it does not do in a training.

    Args:
        world: the ranks that the steps reduce with.
    """
    timed = _TimedCollectives(world)
    seconds: list[tuple[float, float]] = []
    begun = _together(training)
    for _ in _handed_over(training, training.step.through(timed), steps, beat):
        reduction = timed.seconds_of_reduction()
        mx.nd.waitall()
        now = time.perf_counter()
        seconds.append((now - begun - reduction, reduction))
        begun = now
    return seconds


class _TimedCollectives:
    """Collectives that measure when this rank starts the reduction of a step's gradients, and when it is over."""

    def __init__(self, world: World) -> None:
        self.size = world.size
        self._world = world
        self._before: list[mx.nd.NDArray] = []
        self._arrays: list[mx.nd.NDArray] = []

    def reduce(self, arrays: list[mx.nd.NDArray], name: str) -> None:
        # One value of each is copied before it may be reduced: it is there when the gradient is.
        self._before += [array.reshape(-1)[:1].copy() for array in arrays]
        self._arrays += arrays
        self._world.reduce(arrays, name)

    def allgather(self, arrays: list[mx.nd.NDArray], outs: list[mx.nd.NDArray], name: str) -> None:
        self._before += [array.reshape(-1)[:1].copy() for array in arrays]
        self._arrays += outs
        self._world.allgather(arrays, outs, name)

    def seconds_of_reduction(self) -> float:
        """Wait for what the step that was handed over last reduces; 0 where nothing is reduced."""
        for value in self._before:
            value.wait_to_read()
        came = time.perf_counter()
        for array in self._arrays:
            array.wait_to_read()
        seconds = time.perf_counter() - came if self._arrays else 0.0
        self._before, self._arrays = [], []
        return seconds


def _handed_over(training: Training, step: TrainStep, steps: int, beat: Callable[[str], None]) -> Iterator[StepOutcome]:
    """Steps on the same batch; each is yielded when it has been handed to the device."""
    plan, first = training.inputs.plan, training.state.progress.step
    batch = training.inputs.training_view.batch(0, *plan.part(plan.order(0), 0, training.world.rank))
    consensus = Consensus(training.world, training.device, lambda: False, lambda: False)
    rate = training.state.schedule(first)
    for number in range(first, first + steps):  # two sets of flags in flight need two names
        beat("bare step")
        flags = consensus.local_flags()
        yield step(batch, number, rate, plan.num_valid(0), flags, measure=False)
        consensus.read(flags)


def _together(training: Training) -> float:
    """Now, on all ranks."""
    mx.nd.waitall()
    training.world.barrier()
    return time.perf_counter()
