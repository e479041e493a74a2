"""Options of the benchmarks, in addition to those of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from vggdist.config.errors import require
from vggdist.config.schema import Config


@dataclass(frozen=True)
class BenchConfig:
    """How a benchmark measures."""

    repeats: int = 5
    """Number of interleaved measurements of each kind; median, minimum and maximum are reported."""
    steps: int = 40
    """Steps of one measurement. bench input: batches; bench allreduce: the maximum number of reductions; bench profile: the
    recorded steps."""
    warmup: int = 10
    """Steps, batches or reductions before the first measurement."""
    threads: tuple[int, ...] = ()
    """bench input: numbers of threads to compare, such as [1,2,4]. Empty list: only data.threads."""

    ranks: tuple[int, ...] = (1, 2)
    """bench scaling: numbers of ranks to compare, such as [1,2,4]. bench tune uses the largest."""
    launcher: str | None = None
    """bench scaling, bench tune: launch command that accepts -np, with its options, such as "horovodrun --gloo". null:
    horovodrun, and plain Python for one rank."""
    deadline: float = 600.0
    """bench scaling, bench tune: time limit of a job in seconds. A job that exceeds it is killed; bench scaling then stops."""

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
    """A run and how it is measured."""

    bench: BenchConfig = field(default_factory=BenchConfig)
