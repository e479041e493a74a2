"""Trained networks for the tests, made without training."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np

from tests.states import training_state
from vggdist.checkpoints import trained
from vggdist.checkpoints.store import CheckpointStore
from vggdist.checkpoints.trained import Trained
from vggdist.config.inference import Place
from vggdist.models.model import Model
from vggdist.models.spec import ModelSpec


def parameters(spec: ModelSpec, images: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Random parameters under their names in a checkpoint, with statistics and biases that are not the initial ones.

    Args:
        images: ``(N, S, S, C) uint8``, for which the network is then about as sure of a class as a trained one.
    """
    model, random = Model(spec, mx.cpu(), seed=1), np.random.default_rng(1)
    for name, parameter in model.parameters.items():
        if name.endswith(("gamma", "beta", "bias", "running_mean", "running_var")):
            parameter.set_data(mx.nd.array(random.uniform(0.5, 1.5, parameter.shape)))
    if images is not None:
        with mx.autograd.train_mode():
            for _ in range(50):  # the running statistics converge to those of the images
                model.forward(mx.nd.array(images, dtype="uint8"))
        scores = model.forward(mx.nd.array(images, dtype="uint8")).asnumpy()
        factor = 4 / scores.std(axis=0)
        weight, bias = (model.parameters[f"vgg_output_{role}"] for role in ("weight", "bias"))
        weight.set_data(mx.nd.array(weight.data().asnumpy() * factor[:, None]))
        bias.set_data(mx.nd.array((bias.data().asnumpy() - scores.mean(axis=0)) * factor))
    return {f"parameter/{name}": parameter.data().asnumpy() for name, parameter in model.parameters.items()}


def store(run: Path, spec: ModelSpec, images: np.ndarray | None = None) -> Trained:
    """Save such a network as the best checkpoint of a run, after step 10."""
    state = training_state(10, model=spec.as_json(), best_step=10)
    CheckpointStore(run / "checkpoints").save(parameters(spec, images).items(), state)
    return trained.read(Place(run, "best"))
