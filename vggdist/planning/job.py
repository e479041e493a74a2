"""From a request to a job that can run, by the functions that the training itself uses."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import isinf

from vggdist.config.errors import RequestError
from vggdist.config.plan import PlanRequest
from vggdist.data.outline import Outline, outline, survey
from vggdist.data.sampler import SamplePlan, global_batch_size, make_plan
from vggdist.models.layers import Layer, describe, readable_bytes
from vggdist.planning.memory import Memory, estimate, largest_fit, running_statistics
from vggdist.planning.reduction import Cluster, Link
from vggdist.planning.scaling import BACKWARD_SHARE, Workload
from vggdist.training.calendar import Calendar
from vggdist.training.exchange import bucket_cap
from vggdist.training.schedule import Schedule, scaled_learning_rate


@dataclass(frozen=True)
class Job:
    """A plan that can run."""

    request: PlanRequest
    images: Outline
    layers: list[Layer]
    samples: SamplePlan
    schedule: Schedule
    memory: Memory
    cluster: Cluster
    workload: Workload | None
    """A step of one rank; None where its images per second are not given."""

    @property
    def reduced_bytes(self) -> int:
        """What each rank puts into the reductions of a step: the gradients, and batch normalisation's statistics."""
        gradients = bytes_per_gradient(self.request) * sum(layer.trained for layer in self.layers)
        return gradients + 4 * running_statistics(self.request.model, [layer for layer in self.layers if not layer.frozen])

    @property
    def unequal_samples(self) -> int:
        """Samples of an epoch that are filled up (positive) or dropped (negative)."""
        return self.samples.steps_per_epoch * self.samples.global_batch_size - self.samples.num_samples


def bytes_per_gradient(request: PlanRequest) -> int:
    """Bytes in which one number of the gradient travels."""
    return 2 if request.train.compression == "fp16" else 4


def plan_job(request: PlanRequest) -> Job:
    """Work the job out.

    Raises:
        RequestError: when it cannot run, with the numbers that would fit.
    """
    asked, train = request.plan, request.train
    images, count = (outline(request.data), asked.samples) if asked.samples else survey(request.data, request.run.seed)
    layers = describe(request.model, **asdict(images))
    batch = global_batch_size(train.batch_size, train.global_batch_size, asked.ranks, train.accumulation)
    samples = make_plan(count, batch, asked.ranks, request.run.seed, request.data.last_batch == "drop")
    calendar = Calendar.of(request, samples.steps_per_epoch)
    peak = scaled_learning_rate(request.optimizer, asked.ranks)
    schedule = Schedule(request.schedule, peak, samples.steps_per_epoch, calendar.total_steps)
    memory = _memory(request, images, samples.batch_size)
    workload = _workload(request, layers, samples.batch_size)
    return Job(request, images, layers, samples, schedule, memory, _cluster(request), workload)


def _memory(request: PlanRequest, images: Outline, batch_size: int) -> Memory:
    """The estimate, where the rank's memory holds it."""
    asked, at_once = request.plan, batch_size // request.train.accumulation
    fusion = int(asked.fusion_threshold * 2**20) if asked.ranks > 1 else 0
    states = len(request.optimizer.states)

    def needed(samples: int) -> Memory:
        compressed = request.train.compression == "fp16"
        return estimate(request.model, images, samples, states, fusion, compressed, request.evaluation.images_at_once)

    memory = needed(at_once)
    limit = float("inf") if asked.memory is None else asked.memory * 2**30
    if memory.total <= limit:
        return memory
    told = f"{at_once} samples at once need {readable_bytes(memory.total)} on each rank, plan.memory is {asked.memory:g} GiB"
    fitting = largest_fit(needed, at_once, limit)
    if fitting == 0:
        fixed, evaluation = readable_bytes(needed(1).fixed), readable_bytes(memory.evaluation)
        raise RequestError(
            f"{told}; what does not depend on the batch needs {fixed}, {evaluation} of it for evaluation.batch_size "
            f"{request.evaluation.batch_size}"
        )
    parts = next(parts for parts in range(1, batch_size + 1) if batch_size % parts == 0 and batch_size // parts <= fitting)
    raise RequestError(
        f"{told}; at most {fitting} samples at once fit: lower the batch or evaluation.batch_size, or set "
        f"train.accumulation {parts}"
    )


def _cluster(request: PlanRequest) -> Cluster:
    asked, gigabit, microsecond = request.plan, 1e9 / 8, 1e-6
    between = Link(asked.network_latency * microsecond, asked.network_bandwidth * asked.network_share * gigabit)
    return Cluster(asked.ranks_per_host, Link(asked.host_latency * microsecond, asked.host_bandwidth * gigabit), between)


def _workload(request: PlanRequest, layers: list[Layer], batch_size: int) -> Workload | None:
    asked = request.plan
    if asked.images_per_s is None:
        return None
    seconds, threshold = batch_size / asked.images_per_s, asked.fusion_threshold * 2**20
    together = isinf(bucket_cap(request.train, asked.ranks > asked.ranks_per_host))
    overlap = 0.0 if together else seconds * BACKWARD_SHARE / request.train.accumulation
    return Workload(layers, seconds, bytes_per_gradient(request), threshold, overlap)
