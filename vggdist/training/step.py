"""One step: forward, backward, reduce, update. Nothing in it waits for the device."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from vggdist.config.schema import Config
from vggdist.data.augment import Batch
from vggdist.data.randomness import step_seed
from vggdist.models.model import Model
from vggdist.training.optimizer import Optimizer, clip, global_norm
from vggdist.training.reduction import Reduction
from vggdist.world.process import World


class Objective(gluon.HybridBlock):
    """From raw images and targets to the loss: one graph, so that it runs without a return to Python.

    The target of a sample is ``weight`` on its label and the rest on its mixup partner's (Zhang et al. 2018), each smoothed
    over the classes (Szegedy et al. 2016, section 7).
    """

    def __init__(self, model: Model, label_smoothing: float, class_weights: np.ndarray | None = None) -> None:
        """Take the parts of the graph.

        Args:
            class_weights: ``(num_classes,) float32`` factor of each class's share of the loss; None: 1.
        """
        super().__init__(prefix="objective_")
        self._smoothing = label_smoothing
        with self.name_scope():
            if class_weights is not None:
                self.class_weights = self.params.get_constant("class_weights", class_weights[None])
                self.class_weights.initialize(ctx=model.device)
            self.inputs = model.inputs
            self.network = model.network
        self.hybridize(static_alloc=True, static_shape=True)

    def hybrid_forward(
        self, F: Any, images: Any, labels: Any, partners: Any, weights: Any, mask: Any, class_weights: Any = None
    ) -> tuple[Any, ...]:
        """Sums over the batch.

        Args:
            images: ``(B, S, S, C) uint8``; labels, partners: ``(B,) int32``; weights, mask: ``(B,) float32``.

        Returns:
            order: of no use outside the graph; see :meth:`_last_layer_first`.
            loss: ``(1,)`` sum of the cross-entropies under the mask.
            hits: ``(1,)`` sum of the target's share on the predicted class under the mask.
        """
        scores = F.cast(self.network(self.inputs(images)), dtype="float32")
        logarithms = F.log_softmax(scores)
        if class_weights is not None:
            logarithms = F.broadcast_mul(logarithms, class_weights)
        chosen = weights * F.pick(logarithms, labels) + (1 - weights) * F.pick(logarithms, partners)
        likelihood = (1 - self._smoothing) * chosen + self._smoothing * F.mean(logarithms, axis=1)
        predicted = F.argmax(scores, axis=1)
        agreement = weights * F.broadcast_equal(predicted, F.cast(labels, "float32")) + (1 - weights) * F.broadcast_equal(
            predicted, F.cast(partners, "float32")
        )
        return self._last_layer_first(F), -F.sum(mask * likelihood), F.sum(mask * F.BlockGrad(agreement))

    def _last_layer_first(self, F: Any) -> Any:
        """An output that makes the graph name the weights of the last layer first.

        MXNet computes gradients in the order in which the graph names what they are of. By itself it would name the first
        layer's weights first; whatever then belongs to one weight alone (the matrix of a :class:`MatrixConv2D`) is left to
        the end of the backward pass, and so is the reduction of that gradient.
        """
        weights = [p for name, p in self.network.collect_params().items() if name.endswith("_weight")]
        named = [weight.var() if F is mx.symbol else weight.data() for weight in reversed(weights)]
        return F.BlockGrad(F.add_n(*(F.slice_axis(F.reshape(one, shape=(-1,)), axis=0, begin=0, end=1) for one in named)))


@dataclass(frozen=True)
class StepOutcome:
    """What a step leaves on the device: this rank's sums, and what was measured of the gradient.

    Attributes:
        loss: sum of the loss over this rank's samples.
        hits: predictions that agree with the target.
        gradient_norm: global norm of the mean gradient before clipping, where it was asked for.
        skipped: whether the update was left out (``train.nonfinite: skip``).
        ballot: the ballot that was given, on its way to become the sum over the ranks.
    """

    loss: mx.nd.NDArray
    hits: mx.nd.NDArray
    gradient_norm: mx.nd.NDArray | None
    skipped: bool
    ballot: mx.nd.NDArray


class TrainStep:
    """Changes the network by one global batch."""

    def __init__(self, objective: Objective, optimizer: Optimizer, world: World, config: Config, device: mx.Context) -> None:
        self._objective = objective
        self._optimizer = optimizer
        self._world = world
        self._config = config
        self._device = device
        self._draws = _has_dropout(objective)
        parameters = list(objective.collect_params().items())  # in the order of the layers
        self._trained = {name: parameter for name, parameter in parameters if parameter.grad_req != "null"}
        offsets = {name: name[: name.rindex("running_")] + "beta" for name, _ in parameters if "_running_" in name}
        self._offsets = [offset for offset in offsets.values() if offset in self._trained]  # frozen statistics do not move
        self._statistics = [parameter.data() for name, parameter in parameters if offsets.get(name) in self._trained]
        self._all = [mx.nd.ones_like(statistic) for statistic in self._statistics]
        if config.train.accumulation > 1:
            for parameter in self._trained.values():
                parameter.grad_req = "add"
        sizes = {name: parameter.data().size for name, parameter in self._trained.items()}
        self._reduction = Reduction(world, config.train, sizes, self._statistics)
        if self._reduction.overlaps:
            _release_each_gradient(objective, device)

    @property
    def reduction(self) -> str:
        """In words what the order of sums over the ranks depends on."""
        return str(self._reduction)

    def through(self, world: World) -> TrainStep:
        """The same step with its reductions through another view of the ranks, for measuring."""
        step = copy.copy(self)
        step._reduction = self._reduction.through(world)
        return step

    def __call__(
        self, batch: Batch, step: int, learning_rate: float, num_valid: int, ballot: mx.nd.NDArray, measure: bool
    ) -> StepOutcome:
        """Make the step.

        Args:
            batch: this rank's part.
            step: global step from 0; everything random in the step depends on it alone.
            num_valid: samples of the global batch that are not fill.
            ballot: small array that is summed over the ranks along with the gradients, in place.
            measure: ask for the gradient's norm (it costs a pass over all gradients).
        """
        if self._draws:  # a CPU needs milliseconds for it
            mx.random.seed(step_seed(self._config.run.seed, step, self._world.rank), ctx=self._device)
        losses, hits = self._accumulate(batch, num_valid)
        gradients = {name: parameter.grad() for name, parameter in self._trained.items()}
        self._settle_statistics(gradients)
        self._reduction(gradients, ballot)
        skipped = self._config.train.nonfinite == "skip" and not _all_finite(list(gradients.values()))
        limit = self._config.optimizer.clip_norm
        norm = clip(gradients, limit) if limit is not None else global_norm(gradients) if measure else None
        if not skipped:
            self._optimizer.update(gradients, step, learning_rate)
        if self._config.train.accumulation > 1:
            for gradient in gradients.values():
                gradient[:] = 0
        return StepOutcome(losses, hits, norm, skipped, ballot)

    def _accumulate(self, batch: Batch, num_valid: int) -> tuple[mx.nd.NDArray, mx.nd.NDArray]:
        """Forward and backward over the parts of a batch; gradients become this rank's share of the global mean."""
        losses, hits = [], []
        size = len(batch.labels) // self._config.train.accumulation
        for start in range(0, len(batch.labels), size):
            arrays = on_device(batch, slice(start, start + size), self._device)
            with autograd.record():
                _, loss, hit = self._objective(*arrays)
                share = loss / num_valid
            share.backward()
            losses.append(loss)
            hits.append(hit)
        return _total(losses), _total(hits)

    def _settle_statistics(self, gradients: dict[str, mx.nd.NDArray]) -> None:
        """Order whatever reads a running statistic from now on behind the backward pass.

        There batch normalisation updates them on a CPU, which MXNet's engine does not know: a reduction or a checkpoint would
        take those of the step before. What the engine knows is that the same operation writes the offset's gradient.
        """
        for statistic, everything, offset in zip(self._statistics, self._all, self._offsets):
            mx.nd.where(everything, statistic, gradients[offset], out=statistic)


def on_device(batch: Batch, part: slice, device: mx.Context) -> tuple[mx.nd.NDArray, ...]:
    """Hand a part of a batch to the device: images, labels, partners, weights, mask."""
    fields = (batch.images, batch.labels, batch.partners, batch.weights, batch.mask)
    return tuple(mx.nd.array(field[part], ctx=device, dtype=field.dtype) for field in fields)


def _release_each_gradient(objective: Objective, device: mx.Context) -> None:
    """Let the engine know of each gradient when it is there.

    By itself MXNet makes one operation of 15 nodes of the backward pass, the end of which all of its gradients wait for. On a
    GPU that saves a synchronisation for each node, so there the environment's value stays (:mod:`vggdist.world.presets`).
    """
    if device.device_type == "cpu" and "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD" not in os.environ:
        objective.hybridize(static_alloc=True, static_shape=True, backward_bulk_size=1)


def _has_dropout(network: gluon.Block) -> bool:
    """Whether a step draws from MXNet's generators."""
    blocks: list[gluon.Block] = []
    network.apply(blocks.append)
    return any(isinstance(block, gluon.nn.Dropout) for block in blocks)


def _total(values: Sequence[mx.nd.NDArray]) -> mx.nd.NDArray:
    return values[0] if len(values) == 1 else mx.nd.add_n(*values)


def _all_finite(arrays: Sequence[mx.nd.NDArray]) -> bool:
    """Whether every value is finite; waits for the arrays. The reduced gradients are equal on all ranks, so is the answer."""
    return bool(mx.nd.multi_all_finite(*arrays, num_arrays=len(arrays)).asscalar())
