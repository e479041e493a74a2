"""The job that a request describes, computed with the functions of the training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from vggdist.config.errors import RequestError
from vggdist.config.plan import PlanRequest
from vggdist.config.schema import TrainConfig
from vggdist.data.data_shape import DataShape, count_samples, data_shape
from vggdist.data.sampler import SamplePlan, global_batch_size, make_plan
from vggdist.models.layers import Layer, describe, readable_bytes
from vggdist.planning.collective_times import Cluster, Link
from vggdist.planning.memory import Memory, estimate, largest_fit, running_statistics
from vggdist.planning.scaling import Exchange, Workload
from vggdist.training.gradient_exchange import (
    CORE_FLOPS,
    GIGABIT,
    allreduce_bytes,
    bucket_cap,
    bytes_per_number,
    factored,
    link_bandwidth,
    sent_by_layer,
    weights_of,
)
from vggdist.training.schedule import Schedule, scaled_learning_rate
from vggdist.training.triggers import Triggers

# Nodes of the backward pass in one operation, in the preset gpu (vggdist/environment/presets.py).
_GPU_SEGMENT = 25


@dataclass(frozen=True)
class Job:
    """A job that can run."""

    request: PlanRequest
    images: DataShape
    layers: list[Layer]
    samples: SamplePlan
    schedule: Schedule
    cluster: Cluster
    workload: Workload | None
    """A step of one rank; None if its images per second are not given."""

    def sent_bytes(self, factored: Sequence[str]) -> float:
        """Bytes that each rank sends in a step: gradients or factors, and batch normalisation's statistics."""
        train, ranks = self.request.train, self.request.plan.ranks
        as_gradient, as_factors = sent_by_layer(train, ranks, self.samples.batch_size).values()
        statistics = allreduce_bytes(4 * running_statistics([layer for layer in self.layers if not layer.frozen]), ranks)
        return statistics + sum((as_factors if one.name in factored else as_gradient)(one) for one in self.layers)

    def on(self, ranks: int) -> Workload | None:
        """A step of one rank of a job with ``ranks`` ranks."""
        train = self.request.train
        if self.workload is None:
            return None
        return replace(self.workload, exchange=self.exchange(train, ranks, train.network_bandwidth * GIGABIT))

    def exchange(self, train: TrainConfig, ranks: int, bandwidth: float) -> Exchange:
        """How gradients are exchanged.

        Args:
            train: that of the run, or with other values of ``factors`` and ``bucket_cap_mb``.
            bandwidth: of a host's network, bytes per second.
        """
        flops = self.workload.flops if self.workload is not None else CORE_FLOPS
        hosts, weights = self.cluster.hosts(ranks), weights_of(self.layers)
        on_gpu = self.request.world.preset == "gpu"
        if hosts == 1:
            bandwidth = link_bandwidth(train, hosts, on_gpu)
        chosen = factored(weights, train, ranks, self.samples.batch_size, bandwidth, flops)
        cap = bucket_cap(train, hosts > 1, on_gpu)
        return Exchange(cap, factored=chosen, segment=_GPU_SEGMENT if on_gpu else 1)

    def memory(self) -> Memory:
        """Estimated memory of a rank.

        Raises:
            RequestError: it exceeds ``plan.memory``; the message has the batch and the accumulation that would fit.
        """
        request, batch_size = self.request, self.samples.batch_size
        plan, at_once = request.plan, batch_size // request.train.accumulation
        states, gathered = len(request.optimizer.states) + (request.optimizer.ema_decay > 0), self._gathered_bytes()
        if request.train.can_skip:  # copies of what a step changes, see Guard
            states += states + 1
        fusion = int(plan.fusion_threshold * 2**20) if plan.ranks > 1 else 0
        images = self.images

        def needed(samples: int) -> Memory:
            compressed = request.train.compression == "fp16"
            evaluated = request.evaluation.images_at_once
            return estimate(request.model, images, samples, states, fusion + gathered, compressed, evaluated)

        memory = needed(at_once)
        limit = float("inf") if plan.memory is None else plan.memory * 2**30
        if memory.total <= limit:
            return memory
        wanted = readable_bytes(memory.total)
        excess = f"{at_once} samples at once need {wanted} on each rank, plan.memory is {plan.memory:g} GiB"
        fitting = largest_fit(needed, at_once, limit)
        if fitting == 0:
            fixed, evaluation = readable_bytes(needed(1).fixed), readable_bytes(memory.evaluation)
            raise RequestError(
                f"{excess}; what does not depend on the batch needs {fixed}, {evaluation} of it for evaluation.batch_size "
                f"{request.evaluation.batch_size}"
            )
        parts = next(n for n in range(1, batch_size + 1) if batch_size % n == 0 and batch_size // n <= fitting)
        raise RequestError(
            f"{excess}; at most {fitting} samples at once fit: lower the batch or evaluation.batch_size, or set "
            f"train.accumulation {parts}"
        )

    def _gathered_bytes(self) -> int:
        """Bytes of the gathered factors on each rank, and of the transposed ones of the largest layer."""
        train, ranks = self.request.train, self.request.plan.ranks
        chosen = self.exchange(train, ranks, train.network_bandwidth * GIGABIT).factored
        widths = [weight.outputs + weight.inputs for weight in weights_of(self.layers) if weight.name in chosen]
        return 4 * ranks * self.samples.batch_size * (sum(widths) + max(widths, default=0))

    @property
    def unequal_samples(self) -> int:
        """Samples of an epoch that are added as padding (positive) or dropped (negative)."""
        return self.samples.steps_per_epoch * self.samples.global_batch_size - self.samples.num_samples


def plan_job(request: PlanRequest) -> Job:
    """Compute the job of a request.

    Raises:
        RequestError: it cannot run; the message has the numbers that would fit.
    """
    plan, train = request.plan, request.train
    images, count = (data_shape(request.data), plan.samples) if plan.samples else count_samples(request.data, request.run.seed)
    layers = describe(request.model, **asdict(images))
    batch = global_batch_size(train.batch_size, train.global_batch_size, plan.ranks, train.accumulation)
    samples = make_plan(count, batch, plan.ranks, request.run.seed, request.data.last_batch == "drop")
    triggers = Triggers.of(request, samples.steps_per_epoch)
    peak = scaled_learning_rate(request.optimizer, plan.ranks)
    schedule = Schedule(request.schedule, peak, samples.steps_per_epoch, triggers.total_steps)
    workload = _workload(request, layers, samples.batch_size)
    job = Job(request, images, layers, samples, schedule, _cluster(request), workload)
    job.memory()  # raises RequestError if it does not fit
    return job


def _cluster(request: PlanRequest) -> Cluster:
    plan, microsecond = request.plan, 1e-6
    between = Link(plan.network_latency * microsecond, plan.network_bandwidth * plan.network_share * GIGABIT)
    return Cluster(plan.ranks_per_host, Link(plan.host_latency * microsecond, plan.host_bandwidth * GIGABIT), between)


def _workload(request: PlanRequest, layers: list[Layer], batch_size: int) -> Workload | None:
    train, images_per_s = request.train, request.plan.images_per_s
    if images_per_s is None:
        return None
    seconds, width = batch_size / images_per_s, bytes_per_number(train)
    return Workload(layers, seconds, batch_size, width, train.accumulation, byte_cost=request.plan.byte_cost * 1e-9)
