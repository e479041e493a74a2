"""Jobs on several numbers of ranks are compared with the smallest; a failed one is reported and ended completely."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from vggdist.benchmarking.scaling import Size, measure, sizes
from vggdist.benchmarking.tables import SHARES
from vggdist.config.bench import BenchConfig, BenchRequest
from vggdist.config.errors import RequestError, RunError
from vggdist.config.schema import RunConfig, TrainConfig

# Replaces a launcher and its ranks: 100 images/s for a single rank, 80 for each of several.
LAUNCHER = """#!{python}
import json, os, pathlib, sys
words = sys.argv
value = {{flag: words[words.index(flag) + 1] for flag in words if flag.startswith("-") and flag != "-m"}}
ranks = int(value["-np"])
folder = pathlib.Path(value["--run.directory"]) / value["--run.name"]
folder.mkdir()
shares = {{name: {{"median": 20.0}} for name in {shares}}}
rate = {{"median": ranks * (100 if ranks == 1 else 80)}}
result = {{"exit_code": 0, "training": rate, "bare": rate, "shares": [shares] * ranks, "others(%)": 1, "controller": "none"}}
(folder / "bench-step.json").write_text(json.dumps({{**result, "environment": words, "versions": {{}}}}))
"""


def request(folder: Path, launcher: str, ranks: tuple[int, ...] = (1, 2, 4), **options: Any) -> BenchRequest:
    """A request with a launcher of this content."""
    script = folder / "launcher"
    script.write_text(launcher)
    script.chmod(0o755)
    bench = BenchConfig(repeats=2, ranks=ranks, launcher=str(script), **options)
    return BenchRequest(run=RunConfig(directory=str(folder / "runs")), train=TrainConfig(batch_size=8), bench=bench)


def test_weak_scaling_keeps_a_rank_s_batch_and_strong_scaling_the_global_batch() -> None:
    request = BenchRequest(train=TrainConfig(batch_size=8), bench=BenchConfig(ranks=(4, 2)))
    assert sizes(request) == ([Size(2, 16), Size(4, 32)], [Size(2, 16), Size(4, 16)])


def test_ranks_that_cannot_share_the_batch_are_refused() -> None:
    with pytest.raises(RequestError, match="global batch of 8 samples, which is not divisible by 3 ranks"):
        sizes(BenchRequest(train=TrainConfig(batch_size=8), bench=BenchConfig(ranks=(1, 3))))


def test_efficiency_is_a_rank_s_speed_over_that_of_the_smallest_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = measure(
        request(tmp_path, LAUNCHER.format(python=sys.executable, shares=list(SHARES))), ["--model.name", "vgg13"]
    )
    for mode, batches in (("weak", [8, 16, 32]), ("strong", [8, 8, 8])):
        rows = measured[mode]
        assert [row["ranks"] for row in rows] == [1, 2, 4] and [row["global_batch_size"] for row in rows] == batches
        assert [row["images_per_s"]["repeats"] for row in rows] == [[100, 100], [160, 160], [320, 320]]
        assert [row["efficiency(%)"]["median"] for row in rows] == [100, 80, 80]
        assert [len(row["shares"]) for row in rows] == [1, 2, 4]
    words = measured["environment"]
    assert "vggdist.bench" in words and words[words.index("--model.name") + 1] == "vgg13"
    assert len(capsys.readouterr().out.splitlines()) == 2 * 5  # the job of one rank is both weak and strong
    assert not (tmp_path / "runs" / "quickstart" / "scaling").exists()


def test_a_job_that_fails_is_named_with_its_exit_code_and_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(?s)2 rank\(s\) ended with exit code 3: no such host.*-np 2"):
        measure(request(tmp_path, "#!/bin/sh\necho no such host >&2\nexit 3\n", ranks=(2,)), [])


def test_the_exit_code_is_the_job_s_own_where_a_launcher_hides_it(tmp_path: Path) -> None:
    refused = (
        LAUNCHER.format(python=sys.executable, shares=list(SHARES))
        + "pathlib.Path(os.environ['VGGDIST_OUTCOME']).write_text('2\\ndata.root is empty\\n'); sys.exit(1)\n"
    )
    with pytest.raises(RequestError, match="ended with exit code 2: data.root is empty"):
        measure(request(tmp_path, refused), [])


def test_a_job_that_is_not_over_in_time_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vggdist.benchmarking.jobs.GRACE_S", 0.2)
    lasting = f"#!/bin/sh\nsleep 3600 &\necho $! > {tmp_path}/pid\nwait\n"
    with pytest.raises(RunError, match=r"did not finish within 0.5 s \(bench.deadline\)"):
        measure(request(tmp_path, lasting, deadline=0.5), [])
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
