"""What a benchmark can be asked for beside everything that a run can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from vggdist.config.schema import Config, require


@dataclass(frozen=True)
class BenchConfig:
    """How a benchmark measures."""

    repeats: int = 5
    """Measurements of each kind, taken in turn; their median, smallest and largest are told."""
    steps: int = 40
    """Steps of one measurement; with bench input batches, with bench allreduce the most reductions of one."""
    warmup: int = 10
    """Steps, batches or reductions before the first measurement."""
    threads: tuple[int, ...] = ()
    """With bench input: numbers of threads to compare, such as [1,2,4]; an empty list measures data.threads alone."""

    def __post_init__(self) -> None:
        require(self.repeats >= 1, "bench.repeats", self.repeats, "at least 1")
        require(self.steps >= 2, "bench.steps", self.steps, "at least 2 steps")
        require(self.warmup >= 1, "bench.warmup", self.warmup, "at least 1 step")
        require(all(count >= 1 for count in self.threads), "bench.threads", self.threads, "numbers of threads from 1 on")


@dataclass(frozen=True)
class BenchRequest(Config):
    """A whole run, and how it is measured."""

    bench: BenchConfig = field(default_factory=BenchConfig)
