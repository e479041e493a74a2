"""GPU problems that would make a run fail or slow are reported before its first step, each with a remedy."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import mxnet as mx
import pytest

from vggdist.config.errors import RequestError
from vggdist.diagnosis import gpu_stack
from vggdist.diagnosis.gpu_stack import Build, Card, check, require_compatible
from vggdist.environment import gpus

ONE = Card("n1", "boot-1", "0000:3b:00.0", (8, 0), (12, 2), (11, 8), True)
TWO = [ONE, replace(ONE, address="0000:b1:00.0")]
WHOLE = Build(cuda=True, nccl=True)


def found(ranks: Sequence[Card | None], build: Build = WHOLE, elastic: bool = False) -> list[tuple[str, str]]:
    findings = list(check(ranks, build, elastic))
    assert all(one.cure for one in findings)
    return [(one.level, one.what) for one in findings]


@pytest.mark.parametrize("ranks", [[ONE], TWO, [ONE, replace(ONE, machine="boot-2")], [None, None]])
def test_a_card_for_each_rank_is_sound(ranks: list[Card | None]) -> None:
    assert found(ranks) == []


def test_ranks_without_a_card_need_no_nccl() -> None:
    assert found([None, None], Build(False, False), elastic=True) == []


def test_one_rank_needs_nothing_of_horovod() -> None:
    assert found([replace(ONE, horovod_finds_driver=False)], Build(False, False)) == []


def test_ranks_that_share_a_card_are_refused_in_containers_too() -> None:
    assert found([ONE, replace(TWO[1]), replace(ONE, host="pod-2")]) == [
        ("error", "ranks 0, 2 share the GPU 0000:3b:00.0 of n1, which NCCL does not support")
    ]


def test_a_driver_that_horovod_does_not_find_is_an_error() -> None:
    ((level, what),) = found([TWO[0], replace(TWO[1], horovod_finds_driver=False)])
    assert level == "error" and what.startswith("rank 1: there is no libcuda.so")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"driver": (11, 4)}, "rank 0, 1: the driver is for CUDA 11.4, and cannot load code of NVRTC 11.8"),
        (
            {"capability": (8, 9), "compiler": (11, 2)},
            "rank 0, 1: NVRTC of CUDA 11.2 does not support compute capability 8.9",
        ),
    ],
)
def test_a_driver_or_nvrtc_that_is_too_old_is_an_error(change: dict[str, Any], what: str) -> None:
    assert found([replace(one, **change) for one in TWO]) == [("error", what)]


@pytest.mark.parametrize("change", [{"driver": (11, 4)}, {"capability": (8, 9)}])
def test_without_fusion_nothing_is_compiled(change: dict[str, Any]) -> None:
    assert found([replace(one, **change, compiler=None) for one in TWO]) == []


def test_a_horovod_without_cuda_is_an_error_and_one_without_nccl_a_warning() -> None:
    assert found(TWO, Build(False, False)) == [("error", "Horovod was built without CUDA, and cannot reduce arrays on a GPU")]
    ((level, what),) = found(TWO, Build(True, False))
    assert level == "warning" and "HOROVOD_GPU_OPERATIONS=NCCL" in what


def test_an_elastic_run_on_nccl_is_an_error() -> None:
    ((level, what),) = found(TWO, elastic=True)
    assert level == "error" and what.startswith("run.elastic on GPUs")
    assert found(TWO, Build(True, False), elastic=True)[0][0] == "warning"  # through the hosts' memory, on Gloo


class Ranks:
    """A world of two ranks, in which rank 1 has a given card."""

    def __init__(self, other: Card | None) -> None:
        self.other = other

    def gather(self, value: Any) -> list[Any]:
        return [value, asdict(self.other) if self.other is not None else None]


@pytest.fixture
def rank_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 has a GPU, and Horovod has NCCL."""
    import horovod.mxnet as hvd

    monkeypatch.setattr(hvd, "cuda_built", lambda: True)
    monkeypatch.setattr(hvd, "nccl_built", lambda: 22105)
    monkeypatch.setattr(gpus, "describe", lambda index: gpus.Gpu("A100", (8, 0)))
    monkeypatch.setattr(gpus, "address", lambda index: f"0000:{index}b:00.0")
    monkeypatch.setattr(gpus, "driver_cuda", lambda: (12, 2))
    monkeypatch.setattr(gpus, "compiler_cuda", lambda: (11, 8))
    monkeypatch.setattr(gpus, "horovod_finds_driver", lambda: True)


@pytest.mark.usefixtures("rank_on_gpu")
def test_a_start_is_refused_on_every_rank_with_the_remedy() -> None:
    mine = gpu_stack.examine(mx.gpu(3))
    assert mine is not None and (mine.address, mine.compiler) == ("0000:3b:00.0", (11, 8))
    with pytest.raises(RequestError, match="ranks 0, 1 share the GPU 0000:3b:00.0 .*; start one rank for each GPU") as error:
        require_compatible(Ranks(replace(mine, host="pod-2")), mx.gpu(3), elastic=False)  # type: ignore[arg-type]
    assert error.value.agreed


@pytest.mark.usefixtures("rank_on_gpu")
def test_a_start_that_would_be_slow_is_logged(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import horovod.mxnet as hvd

    monkeypatch.setattr(hvd, "nccl_built", lambda: 0)
    with caplog.at_level(logging.WARNING):
        require_compatible(Ranks(None), mx.gpu(3), elastic=False)  # type: ignore[arg-type]
    assert "HOROVOD_GPU_OPERATIONS=NCCL" in caplog.text


@pytest.mark.usefixtures("rank_on_gpu")
@pytest.mark.parametrize("value", ["0", "False"])
def test_fusion_that_is_turned_off_compiles_nothing(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXNET_USE_FUSION", value)
    mine = gpu_stack.examine(mx.gpu(0))
    assert mine is not None and mine.compiler is None


def test_a_rank_on_the_cpu_has_no_card() -> None:
    assert gpu_stack.examine(mx.cpu()) is None
    require_compatible(Ranks(None), mx.cpu(), elastic=True)  # type: ignore[arg-type]
