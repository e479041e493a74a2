"""Estimate a run and its scaling: ``python -m vggdist.plan --config FILE --plan.ranks 512``. Runs nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from vggdist.config.command_line import SettingsParser
from vggdist.config.load import training_settings
from vggdist.config.options import options
from vggdist.config.plan import PlanRequest
from vggdist.exit_handling import ExitHandler
from vggdist.models.layers import readable_bytes
from vggdist.planning.best_exchange import best
from vggdist.planning.collective_times import Algorithm
from vggdist.planning.input_rate import Preparation, Rate, fitting_short_side, published_rates
from vggdist.planning.job import Job, plan_job
from vggdist.planning.memory import Memory
from vggdist.planning.published import MEASUREMENTS, predicted_speed_up
from vggdist.planning.scaling import Workload, step_seconds, worker_counts
from vggdist.training.gradient_exchange import GIGABIT, sent_by_layer

_RANKS, _GIGABITS = (8, 64, 512), (10.0, 25.0, 100.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan; a job that cannot run ends with exit code 2 and the numbers that would fit."""
    return ExitHandler().run(lambda: plan(sys.argv[1:] if arguments is None else arguments))


def plan(arguments: Sequence[str]) -> dict[str, Any]:
    """Print the plan of the job with the given arguments."""
    request = training_settings(_parser().parse(arguments).settings, PlanRequest)
    print("\n".join(_published() if request.plan.published else _plan(plan_job(request))))
    return {}


def _parser() -> SettingsParser:
    own = [key for key in options(PlanRequest) if key.startswith("plan.")]
    return SettingsParser("plan", PlanRequest, first=own, description=__doc__)


def _plan(job: Job) -> Iterator[str]:
    yield from _job(job)
    yield ""
    yield from _sent(job)
    yield ""
    yield from _memory(job.memory())
    yield ""
    yield from _input(job)
    yield ""
    if job.workload is None:
        yield "scaling            not predicted: set plan.images_per_s to the measured speed of a single rank"
        return
    yield from _scaling(job)
    yield ""
    yield from _best(job)


def _job(job: Job) -> Iterator[str]:
    ranks, samples, optimizer = job.request.plan.ranks, job.samples, job.request.optimizer
    hosts = job.cluster.hosts(ranks)
    yield f"ranks              {ranks:,} on {hosts:,} host{'s' if hosts > 1 else ''}"
    yield f"global batch       {samples.global_batch_size:,} samples, {samples.batch_size:,} on each rank"
    yield f"training samples   {samples.num_samples:,}, {_unequal(job)} in each epoch"
    yield f"steps              {samples.steps_per_epoch:,} in each epoch, {job.schedule.total_steps:,} in all"
    rule = f" ({optimizer.learning_rate:g} x {ranks:,} ranks)" if optimizer.scale_learning_rate else ""
    yield f"peak learning rate {job.schedule.peak:g}{rule}"


def _sent(job: Job) -> Iterator[str]:
    """Bytes that each rank sends in a step: by layer as gradient and as factors, and in total for this job."""
    train, ranks = job.request.train, job.request.plan.ranks
    exchange = job.exchange(train, ranks, train.network_bandwidth * GIGABIT)
    yield f"sent by each rank in each step: {readable_bytes(round(job.sent_bytes(exchange.factored)))}"
    yield f"  {'':17}{'as gradient':>12}{'as factors':>12}"
    as_gradient, as_factors = sent_by_layer(train, ranks, job.samples.batch_size).values()
    convolutions = sum(map(as_gradient, (layer for layer in job.layers if layer.kind == "convolution")))
    yield f"  {'convolutions':17}{readable_bytes(round(convolutions)):>12}{'-':>12}"
    for layer in job.layers:
        if layer.kind == "dense":
            cells = [f"{readable_bytes(round(sent(layer))):>12}" for sent in (as_gradient, as_factors)]
            yield f"  {layer.name:17}{''.join(cells)}{'  sent as factors' if layer.name in exchange.factored else ''}"


def _unequal(job: Job) -> str:
    """Number of samples that the last batch drops or adds as padding."""
    if job.unequal_samples < 0:
        return f"{-job.unequal_samples:,} dropped"
    return f"{job.unequal_samples:,} added as padding"


def _memory(memory: Memory) -> Iterator[str]:
    yield "memory of each rank (estimate)"
    parts = {
        "parameters": memory.parameters,
        "gradients": memory.gradients,
        "optimizer state": memory.optimizer_state,
        "activations": memory.activations,
        "their gradients": memory.activation_gradients,
        "work space": memory.work_space,
        "matrices": memory.matrices,
        "evaluation": memory.evaluation,
        "reduction": memory.reduction,
        "total": memory.total,
    }
    yield from (f"  {name:17}{readable_bytes(count):>12}" for name, count in parts.items())


def _input(job: Job) -> Iterator[str]:
    config, data, augment = job.request.plan, job.request.data, job.request.augment
    encoded = data.name in ("folder", "records")
    cost = Preparation.of(job.images, augment, encoded, config.short_side)
    yield f"input of a rank on a GPU (estimate); a core prepares {1 / cost.seconds:,.0f} images/s"
    rates = list(published_rates(job.layers)) if encoded else []
    if config.images_per_s is not None:
        rates = [Rate("this one", config.images_per_s, "plan.images_per_s")]
    if not rates:
        return
    yield f"  {'GPU':12}{'images/s':>9}{'threads':>9}{'cores':>7}{'MB/s read':>11}  source of the images/s"
    for rate in rates:
        threads, cores = cost.threads(rate.images_per_s), cost.cores(rate.images_per_s)
        read = rate.images_per_s * cost.num_bytes / 1e6
        yield f"  {rate.gpu:12}{rate.images_per_s:>9,.1f}{threads:>9}{cores:>7}{read:>11,.0f}  {rate.source}"
    for rate in rates:
        yield from _too_slow(job, rate, cost, encoded)


def _too_slow(job: Job, rate: Rate, cost: Preparation, encoded: bool) -> Iterator[str]:
    """Warnings if a GPU would wait for its images, with a remedy."""
    config, data = job.request.plan, job.request.data
    threads = cost.threads(rate.images_per_s)
    if threads > data.threads:
        yield f"warning: data.threads {data.threads} is too few for {rate.gpu}; set it to {threads}"
    ranks = min(config.ranks, config.ranks_per_host)
    needed = ranks * cost.cores(rate.images_per_s)
    if config.cores is None or needed <= config.cores:
        return
    remedy = "use hosts with more cores, or start fewer ranks on each"
    side = fitting_short_side(job.images, job.request.augment, rate.images_per_s, config.cores / ranks)
    if encoded and side is not None:
        remedy = f"vggdist prepare --short-side {side}, or {remedy}"
    yield f"warning: {ranks} x {rate.gpu} on a host need {needed} cores, plan.cores is {config.cores}; {remedy}"


def _scaling(job: Job) -> Iterator[str]:
    yield f"predicted scaling, {job.samples.batch_size:,} samples on each rank"
    header = ("step(ms)", "images/s", "efficiency(%)")
    yield f"{'':14}{'ring':>33}  {'hierarchical':>33}"
    yield " ".join([f"{'ranks':>7}{'hosts':>7}", *(f"{title:>{width}}" for title, width in zip(header * 2, (9, 10, 13) * 2))])
    for ranks in worker_counts(job.request.plan.ranks):
        workload = job.on(ranks)
        assert workload is not None
        row = "".join(_cells(job, workload, algorithm, ranks) for algorithm in ("ring", "hierarchical"))
        yield f"{ranks:>7}{job.cluster.hosts(ranks):>7}{row}"


def _best(job: Job) -> Iterator[str]:
    """The fastest way to exchange gradients, for this job and for other numbers of ranks and networks."""
    config, workload = job.request.plan, job.workload
    assert workload is not None
    titles = f"{'ranks':>7}{'Gbit/s':>8}{'bucket_cap_mb':>15}{'step(ms)':>10}{'efficiency(%)':>15}  factors of"
    yield f"{'fastest setting':16}{titles}"
    own = (config.ranks, config.network_bandwidth)
    for row, (ranks, gigabits) in enumerate((own, *product(_RANKS, _GIGABITS))):
        fastest = best(job, ranks, gigabits * config.network_share)
        cells = f"{ranks:>7}{gigabits:>8g}{fastest.cap:>15g}{1000 * fastest.seconds:>10.1f}"
        cells += f"{100 * workload.seconds / fastest.seconds:>15.1f}"
        yield f"{'' if row else 'this job':16}{cells}  {', '.join(fastest.factored) or '-'}"
    bandwidth = config.network_bandwidth * config.network_share
    yield f"for this job: {best(job, config.ranks, bandwidth).flags(bandwidth)}"


def _cells(job: Job, workload: Workload, algorithm: Algorithm, ranks: int) -> str:
    """Step time, throughput of all ranks and efficiency, or dashes if Horovod would not use the algorithm."""
    if not job.cluster.supports(algorithm, ranks):
        return f" {'-':>9} {'-':>10} {'-':>13}"
    seconds = step_seconds(workload, job.cluster, algorithm, ranks)
    images_per_s = ranks * job.samples.batch_size / seconds
    return f" {1000 * seconds:>9.1f} {images_per_s:>10,.1f} {100 * workload.seconds / seconds:>13.1f}"


def _published() -> Iterator[str]:
    yield "VGG-16 with Horovod on Pascal GPUs, 4 a server; speed-up over one GPU (efficiency)"
    yield f"{'GPUs':>5}  {'network':16}{'measured':>16}{'predicted':>18}  source"
    for run in MEASUREMENTS:
        cells = [
            f"{speed_up:.1f} ({100 * speed_up / run.ranks:.1f} %)" for speed_up in (run.speed_up, predicted_speed_up(run))
        ]
        note = "; calibrates the share" if run.calibrates else ""
        yield f"{run.ranks:>5}  {run.network:16}{cells[0]:>16}{cells[1]:>18}  {run.source}{note}"


if __name__ == "__main__":
    sys.exit(main())
