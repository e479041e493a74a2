"""Each benchmark's plot has labelled axes and shows the spread; it is a PNG and an image in TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib.container import ErrorbarContainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vggdist.benchmarking.charts import CHARTS
from vggdist.benchmarking.series import Series
from vggdist.benchmarking.tables import SHARES, TABLES
from vggdist.reporting.figures import publish


def series(*values: float) -> dict[str, Any]:
    return Series(values).as_json()


def scaling(ranks: int, rate: float) -> dict[str, Any]:
    row = {"images_per_s": series(rate, rate + 9), "efficiency(%)": series(80, 90), "shares": [SHARED] * ranks}
    return {"ranks": ranks, "global_batch_size": 8 * ranks, "others(%)": 3.0, **row}


SHARED = {key: series(value) for key, value in zip(SHARES, (2, 70, 20, 10, -2))}
MEASURED: dict[str, dict[str, Any]] = {
    "step": {"bare": series(210, 220), "training": series(200, 209), "ratio": series(0.95), "shares": [SHARED, SHARED]},
    "input": {"threads": [{"threads": n, "images_per_s": series(n), "core_ms_per_image": series(1)} for n in (1, 2)]},
    "scaling": {mode: [scaling(1, 100), scaling(2, 190)] for mode in ("weak", "strong")},
    "tune": {
        "trials": [
            {"setting": "unchanged", "images_per_s": series(9), "ratio": series(1), "others(%)": 2.0, "failed": None},
            {
                "setting": "A=1",
                "images_per_s": series(0),
                "ratio": series(0),
                "others(%)": None,
                "failed": "it hung\nsince then",
            },
        ],
        "winner": None,
    },
    "allreduce": {
        "sizes": [{"bytes": size, "layers": ["all"], "horovod": series(1e-3, 2e-3)} for size in (1000, 1000000)],
        "latency_us": 30.0,
        "bandwidth_gbit_s": 20.0,
    },
    "profile": {"operators": {"Convolution": 2.0, "Pooling": 0.5}, "mxnet": ["a.json"], "horovod": None},
}


@pytest.mark.parametrize("kind", CHARTS)
def test_a_plot_has_units_on_its_axes_and_bars_for_the_spread(kind: str) -> None:
    figure = CHARTS[kind]({"world_size": 2, **MEASURED[kind]})
    labels = [label for panel in figure.axes for label in (panel.get_xlabel(), panel.get_ylabel())]
    assert any(unit in " ".join(labels) for unit in ("images/s", "(ms)"))
    spread = [bars for panel in figure.axes for bars in panel.containers if isinstance(bars, ErrorbarContainer)]
    assert (len(spread) > 0) == (kind != "profile")


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_reports_every_row(kind: str) -> None:
    text = "\n".join(TABLES[kind]({"world_size": 2, **MEASURED[kind]}))
    excerpts = {
        "step": "rank 1",
        "input": "\n      2",
        "scaling": "strong       2     16",
        "tune": "A=1        it hung\n",
        "allreduce": "1,000,000",
        "profile": "Pool",
    }
    assert excerpts[kind] in text
    assert kind not in ("step", "scaling") or all(name in text for name in SHARES.values())


def test_a_figure_is_published_as_a_file_and_in_tensorboard(tmp_path: Path) -> None:
    path = publish(CHARTS["input"]({"world_size": 1, **MEASURED["input"]}), tmp_path, "bench-input")
    assert path == tmp_path / "bench-input.png" and path.read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(tmp_path / "bench"))
    events.Reload()
    assert len(events.Images("bench-input")) == 1
