"""A trained network as it lies in a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mxnet as mx
import numpy as np

from vggdist.checkpoints import contents
from vggdist.checkpoints.contents import Checkpoint
from vggdist.checkpoints.state import digest
from vggdist.checkpoints.store import CheckpointStore
from vggdist.collectives.world import World
from vggdist.config.errors import RequestError
from vggdist.config.inference import BEST, LATEST, Place
from vggdist.models.model import Model
from vggdist.models.precision import runs_on_onednn, use_precision
from vggdist.models.spec import ModelSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of a network.

    Attributes:
        parameters: name -> array, as in the checkpoint.
        step: after which it was saved.
        seed: of the run, by which a part of its data was held out.
        path: the checkpoint's folder.
        sha256: over all arrays of the checkpoint, as ``result.json`` has it at the end of a run.
    """

    spec: ModelSpec
    parameters: Mapping[str, np.ndarray]
    step: int
    seed: int
    path: str
    sha256: str

    def model(self, device: mx.Context, precision: str = "float32") -> Model:
        """The network, ready to be used.

        Raises:
            RequestError: the device does not have the precision, or the parameters are not those of the network.
        """
        use_precision(precision, device)
        model = Model(self.spec, device, onednn=runs_on_onednn(precision, device))
        model.load(self.parameters)
        return model


def read(place: Place) -> Trained:
    """Read a checkpoint.

    Raises:
        RequestError: there is none, or not this one, or it is damaged; the message names it.
    """
    if place.run is None or not (place.checkpoint in (BEST, LATEST) or place.checkpoint.isdecimal()):
        path = Path(place.checkpoint)
        return _trained(contents.read(path), path)
    store = CheckpointStore(place.run / "checkpoints")
    step = _step(store, place)
    return _trained(store.load(step), store.path(step))


def on_all_ranks(world: World, place: Place) -> Trained:
    """Read a checkpoint on rank 0, whose disk alone may have it; every rank must call this.

    Raises:
        RequestError: on every rank, as :func:`read`.
    """
    found = world.together(lambda: read(place), acts=world.is_root)
    facts = None
    if world.is_root:
        shapes = {name: array.shape for name, array in found.parameters.items()}
        facts = {**vars(found), "spec": found.spec.as_json(), "parameters": shapes}
    facts = world.gather(facts)[0]
    stored = found.parameters if world.is_root else {}
    parameters = {
        name: world.broadcast(stored.get(name, np.empty(shape, np.float32))) for name, shape in facts["parameters"].items()
    }
    return Trained(**facts | {"spec": ModelSpec.from_json(facts["spec"]), "parameters": parameters})


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
            logger.warning("no checkpoint of %s was measured yet: the newest is taken for the best", place.run)
        return (store.whole_steps() or steps)[-1]
    if best not in steps:
        raise RequestError(f"the best checkpoint of {place.run}, step {best}, is gone; take --checkpoint latest")
    return best


def _trained(checkpoint: Checkpoint, path: Path) -> Trained:
    state, arrays = checkpoint.state, checkpoint.arrays
    parameters = {name: array for name, array in arrays.items() if name.startswith("parameter/")}
    spec = ModelSpec.from_json(state["model"])
    return Trained(spec, parameters, state["step"], int(state["identity"].get("seed", 0)), str(path), digest(arrays))
