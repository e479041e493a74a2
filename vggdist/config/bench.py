"""What a benchmark can be asked for beside everything that a run can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from vggdist.config.errors import require
from vggdist.config.schema import Config


@dataclass(frozen=True)
class BenchConfig:
    """How a benchmark measures."""

    repeats: int = 5
    """Measurements of each kind, taken in turn; their median, smallest and largest are told."""
    steps: int = 40
    """Steps of one measurement; with bench input batches, with bench allreduce the most reductions of one, with bench profile
    the steps that are recorded."""
    warmup: int = 10
    """Steps, batches or reductions before the first measurement."""
    threads: tuple[int, ...] = ()
    """With bench input: numbers of threads to compare, such as [1,2,4]; an empty list measures data.threads alone."""

    ranks: tuple[int, ...] = (1, 2)
    """With bench scaling: numbers of ranks to compare, such as [1,2,4]; bench tune takes the largest."""
    launcher: str | None = None
    """With bench scaling and tune: command that takes -np, with its options, such as "horovodrun --gloo". null: horovodrun,
    and plain Python for one rank."""
    deadline: float = 600.0
    """With bench scaling and tune: seconds after which a job that is not over is ended; with bench scaling all is."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, "bench.repeats", self.repeats, "at least 1")
        require(self.steps >= 2, "bench.steps", self.steps, "at least 2 steps")
        require(self.warmup >= 1, "bench.warmup", self.warmup, "at least 1 step")
        require(all(count >= 1 for count in self.threads), "bench.threads", self.threads, "numbers of threads from 1 on")
        distinct = len({*self.ranks}) == len(self.ranks) > 0 and all(count >= 1 for count in self.ranks)
        require(distinct, "bench.ranks", self.ranks, "different numbers of ranks from 1 on")
        require(self.deadline > 0, "bench.deadline", self.deadline, "a positive number of seconds")


@dataclass(frozen=True)
class BenchRequest(Config):
    """A whole run, and how it is measured."""

    bench: BenchConfig = field(default_factory=BenchConfig)
