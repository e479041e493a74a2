"""Operator times from MXNet's trace."""

from __future__ import annotations

from typing import Any

from vggdist.benchmarking.profile import operator_times, renumber


def event(phase: str, name: str, at: float, category: str = "operator", **more: int) -> dict[str, Any]:
    return {"ph": phase, "name": name, "ts": at, "cat": category, "pid": 2**63 + 7, "tid": 2**63 + 9, **more}


def test_the_time_of_an_operator_is_summed_over_its_spans() -> None:
    spans = [
        *(event("B", "Pooling", 0), event("E", "Pooling", 1000)),
        *(event("B", "horovod_allreduce", 500), event("B", "horovod_allreduce", 600)),
        *(event("E", "horovod_allreduce", 1500), event("E", "horovod_allreduce", 2500)),
        *(event("B", "Pooling", 3000), event("E", "Pooling", 3500)),
        *(event("b", "Pooling", 0, id=1), event("e", "Pooling", 1000, id=1)),
        *(event("b", "horovod_allreduce", 500, id=2), event("e", "horovod_allreduce", 2500, id=2)),
        *(event("b", "horovod_allreduce", 600, id=2), event("e", "horovod_allreduce", 1500, id=2)),
        *(event("b", "MXInvokeCachedOp", 0, "MXNET_C_API", id=1), event("e", "MXInvokeCachedOp", 9000, "MXNET_C_API", id=1)),
        *(event("b", "Pooling", 3000, id=1), event("e", "Pooling", 3500, id=1)),
    ]
    assert list(operator_times(spans).items()) == [("horovod_allreduce", 2.9), ("Pooling", 1.5)]


def test_numbers_of_64_bits_become_small_and_stay_apart() -> None:
    events = [{"pid": 2**63 + 1, "tid": 2**63}, {"pid": 2**63}, {"pid": 2**63 + 1, "tid": 5, "id": 2**62}]
    renumber(events)
    assert events == [{"pid": 0, "tid": 0}, {"pid": 1}, {"pid": 0, "tid": 1, "id": 0}]
