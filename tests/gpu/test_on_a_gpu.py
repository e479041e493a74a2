"""Small versions of the self-test's checks on the first GPU: ``pytest -m gpu tests/gpu``. Skipped where MXNet sees none."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from tests.selftests import TINY
from vggdist.checkpoints.snapshot import Snapshot
from vggdist.collectives.world import World
from vggdist.environment import gpus
from vggdist.selftest.claims import Bench, Claim, claims
from vggdist.selftest.selftest import selftest
from vggdist.training.norms import global_norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(mx.context.num_gpus() == 0, reason="MXNet sees no GPU (docs/install.md, GPUs)"),
]


@pytest.fixture(scope="module")
def bench() -> Bench:
    if refusal := gpus.refusal(0):
        pytest.skip(refusal)
    return Bench(World(), mx.gpu(0), TINY)


@pytest.mark.parametrize("number", range(5))
def test_a_claim_holds(number: int, bench: Bench) -> None:
    judged: list[Claim] = [claim for claim in claims(bench) if claim.limit is not None]
    assert len(judged) >= 5  # without float16, which only the full self-test runs: a process cannot return to float32
    claim = judged[number]
    measured = claim.measure(bench)
    assert measured.value <= (claim.limit or 0), f"{claim.text}: {measured}"


def test_a_norm_of_millions_of_elements_is_right(bench: Bench) -> None:
    array = mx.nd.random.normal(shape=(1024, 4096), ctx=bench.device)
    expected = np.sqrt((array.asnumpy().astype(np.float64) ** 2).sum())
    assert global_norm({"one": array}).asscalar() == pytest.approx(expected, rel=1e-6)


def test_copies_lie_in_pinned_memory(bench: Bench) -> None:
    array = mx.nd.random.normal(shape=(64, 64), ctx=bench.device)
    snapshot = Snapshot({"one": array})
    snapshot.take({"one": array})
    ((_, values),) = snapshot.values()
    assert snapshot.buffers["one"].context == mx.cpu_pinned(0) and np.array_equal(values, array.asnumpy())


def test_the_whole_self_test_passes(bench: Bench, tmp_path: Path) -> None:
    findings = selftest(bench.world, bench.device, tmp_path, TINY)
    assert not [finding for finding in findings if finding.level == "error"]
