"""A trained network, read from a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.checkpoints import contents
from vggdist.checkpoints.contents import Checkpoint
from vggdist.checkpoints.state import AVERAGE, digest
from vggdist.checkpoints.store import CheckpointStore
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.inference import BEST, LATEST, Place
from vggdist.models.model import PREFIX, Model
from vggdist.models.precision import onednn_precision, use_precision
from vggdist.models.spec import ModelSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A network from a checkpoint.

    Attributes:
        parameters: name -> array, as in the checkpoint; if that has averages of the weights, these under the weights' names.
        step: finished steps when it was saved.
        seed: of the run, which determines the held-out part of its data.
        path: the checkpoint's folder.
        sha256: over all arrays of the checkpoint, as in ``result.json`` at the end of a run.
    """

    spec: ModelSpec
    parameters: Mapping[str, NDArray[Any]]
    step: int
    seed: int
    path: str
    sha256: str

    def model(self, device: mx.Context, precision: str = "float32") -> Model:
        """The network on a device.

        Raises:
            RequestError: the device does not support the precision, or the parameters do not match the network.
        """
        use_precision(precision, device)
        model = Model(self.spec, device, onednn=onednn_precision(precision, device))
        model.load(self.parameters)
        return model


def read(place: Place) -> Trained:
    """Read a checkpoint.

    Raises:
        RequestError: it does not exist or is damaged; the message names it.
    """
    if place.run is None or not (place.checkpoint in (BEST, LATEST) or place.checkpoint.isdecimal()):
        path = Path(place.checkpoint)
        return _trained(contents.read(path), path)
    store = CheckpointStore(place.run / "checkpoints")
    step = _step(store, place)
    return _trained(store.load(step), store.path(step))


def on_all_ranks(world: World, place: Place) -> Trained:
    """Read a checkpoint on rank 0, which may be the only one that has it, and broadcast it; every rank must call this.

    Raises:
        RequestError: on every rank, as :func:`read`.
    """
    trained = world.together(lambda: read(place), acts=world.is_root)
    fields = None
    if world.is_root:
        shapes = {name: array.shape for name, array in trained.parameters.items()}
        fields = {**vars(trained), "spec": trained.spec.as_json(), "parameters": shapes}
    fields = world.gather(fields)[0]
    stored = trained.parameters if world.is_root else {}
    parameters = {
        name: world.broadcast(stored.get(name, np.empty(shape, np.float32))) for name, shape in fields["parameters"].items()
    }
    return Trained(**fields | {"spec": ModelSpec.from_json(fields["spec"]), "parameters": parameters})


def _step(store: CheckpointStore, place: Place) -> int:
    steps = store.steps()
    if not steps:
        raise RequestError(f"{place.run} has no checkpoint; train it first")
    if place.checkpoint.isdecimal():
        if int(place.checkpoint) not in steps:
            raise RequestError(
                f"{place.run} has no checkpoint of step {place.checkpoint}; it has {', '.join(map(str, steps))}"
            )
        return int(place.checkpoint)
    best = store.best_step() if place.checkpoint == BEST else None
    if best is None:
        if place.checkpoint == BEST:
            logger.warning("no checkpoint of %s was evaluated yet: using the newest as the best", place.run)
        return (store.complete_steps() or steps)[-1]
    if best not in steps:
        raise RequestError(f"the best checkpoint of {place.run}, step {best}, no longer exists; use --checkpoint latest")
    return best


def _trained(checkpoint: Checkpoint, path: Path) -> Trained:
    state, arrays = checkpoint.state, checkpoint.arrays
    own = {name: array for name, array in arrays.items() if name.startswith(PREFIX)}
    parameters = {name: arrays.get(f"{AVERAGE}{name.removeprefix(PREFIX)}", array) for name, array in own.items()}
    spec = ModelSpec.from_json(state["model"])
    return Trained(spec, parameters, state["step"], int(state["identity"].get("seed", 0)), str(path), digest(arrays))
