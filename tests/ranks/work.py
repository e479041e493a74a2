"""What the ranks of a test do: ``python -m tests.ranks.work FUNCTION JSON-ARGUMENTS RESULTS-FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vggdist.world import knobs

knobs.apply()

import numpy as np  # noqa: E402

from vggdist.checkpoints.state import digest  # noqa: E402
from vggdist.config.load import load  # noqa: E402
from vggdist.reporting.report import SilentReport  # noqa: E402
from vggdist.training.evaluation import evaluate  # noqa: E402
from vggdist.training.setup import prepare  # noqa: E402
from vggdist.training.trainer import Trainer  # noqa: E402
from vggdist.world.process import World  # noqa: E402


def parameters_after_training(world: World, flags: list[str], save_to: str | None = None) -> dict[str, Any]:
    """Train, and tell the parameters' hash; rank 0 saves them."""
    setup = prepare(load("train", flags), world)
    Trainer(setup, SilentReport()).train()
    if save_to and world.is_root:
        np.savez(save_to, **{name: array.asnumpy() for name, array in setup.arrays.items()})
    return {"sha256": digest(setup.arrays), "loss": setup.progress.training_metrics["train/loss"]}


def evaluation_sums(world: World, flags: list[str]) -> dict[str, Any]:
    """Evaluate a network that was just initialised; tell every integer of the sums."""
    setup = prepare(load("train", flags), world)
    view = setup.evaluation_views["eval"]
    sums = evaluate(setup.forward, view, setup.num_classes, world, setup.config, setup.device)
    return {"samples": len(view), "sums": sums.as_array().tolist(), "result": sums.result()}


def collectives(world: World) -> dict[str, Any]:
    """Each collective on values that name the rank."""
    values = np.random.RandomState(world.rank).randn(7, 3).astype(np.float32)
    gathered = world.gather({"rank": world.rank, "text": "ä" * world.rank})
    return {
        "broadcast": world.broadcast(values).tolist(),
        "gather": gathered,
        "sum": int(world.sum(np.array([2**60 + world.rank]))[0]),
    }


if __name__ == "__main__":
    function, arguments, results = sys.argv[1:]
    ranks = World()
    told = globals()[function](ranks, **json.loads(arguments))
    (Path(results) / f"{ranks.rank}.json").write_text(json.dumps(told))
