"""One training step: forward, backward, reduce, update. Nothing in it waits for the device."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon
from numpy.typing import NDArray

from vggdist.collectives.world import Collectives, World
from vggdist.config.schema import Config
from vggdist.data.augment import Batch
from vggdist.data.randomness import step_seed
from vggdist.models.dense import fully_connected
from vggdist.models.layers import readable_bytes
from vggdist.models.model import Model
from vggdist.training.gradient_reduction import Reduction
from vggdist.training.guard import Guard, all_finite
from vggdist.training.layer_norms import layer_norms
from vggdist.training.loss_scale import LossScale
from vggdist.training.norms import clip, global_norm
from vggdist.training.optimizer import Optimizer
from vggdist.training.weight_average import WeightAverage

logger = logging.getLogger(__name__)


class Objective(gluon.HybridBlock):
    """The loss of raw images and targets, as one graph, so that it runs without a return to Python.

    A sample's target has ``weight`` on its label and the rest on its mixup partner's (Zhang et al. 2018), each smoothed over
    the classes (Szegedy et al. 2016, section 7).

    With class weights, the cross-entropy with each of the two smoothed targets is multiplied by the weight of that label's
    class. The step divides the sum by the number of samples in the global batch, not by the sum of their weights: the weights
    are 1 in the mean over the training set, so the gradient of a batch is an unbiased estimate of the gradient over the set.
    """

    def __init__(self, model: Model, label_smoothing: float, class_weights: NDArray[np.float32] | None = None) -> None:
        """Assemble the graph.

        Args:
            class_weights: ``(num_classes,) float32`` factor of the loss of each class's samples; None: 1.
        """
        super().__init__(prefix="objective_")
        self._smoothing = label_smoothing
        with self.name_scope():
            if class_weights is not None:
                self.class_weights = self.params.get_constant("class_weights", class_weights)
                self.class_weights.initialize(ctx=model.device)
            self.inputs = model.inputs
            self.network = model.network
        self.hybridize(static_alloc=True, static_shape=True)

    def hybrid_forward(
        self,
        F: Any,
        images: Any,
        labels: Any,
        partners: Any,
        weights: Any,
        mask: Any,
        *offsets: Any,
        class_weights: Any = None,
    ) -> tuple[Any, ...]:
        """Compute the sums over the batch.

        Args:
            images: ``(B, S, S, C) uint8``; labels, partners: ``(B,) int32``; weights, mask: ``(B,) float32``.
            offsets: ``(B, units)`` zeros for each layer that outputs factors (:class:`~vggdist.models.dense.FactoredDense`).

        Returns:
            order: only orders the backward pass; see :meth:`_last_layer_first`.
            loss: ``(1,)`` sum of the cross-entropies, times their class weights, under the mask.
            hits: ``(1,)`` sum of the target's weight on the predicted class under the mask.
            inputs: ``(B, in_units)`` of each layer that outputs factors.
        """
        factored = [layer for layer in fully_connected(self.network) if layer.outputs_factors]
        for layer, offset in zip(factored, offsets):
            layer.offset = offset
        scores = F.cast(self.network(self.inputs(images)), dtype="float32")
        for layer in factored:
            layer.offset = None  # other graphs of the network have no offsets
        logarithms = F.log_softmax(scores)
        own, others, spread = weights, 1 - weights, F.mean(logarithms, axis=1)
        if class_weights is not None:
            own, others = own * F.take(class_weights, labels), others * F.take(class_weights, partners)
            spread = (own + others) * spread
        chosen = own * F.pick(logarithms, labels) + others * F.pick(logarithms, partners)
        likelihood = (1 - self._smoothing) * chosen + self._smoothing * spread
        predicted = F.argmax(scores, axis=1)
        agreement = weights * F.broadcast_equal(predicted, F.cast(labels, "float32")) + (1 - weights) * F.broadcast_equal(
            predicted, F.cast(partners, "float32")
        )
        order, inputs = self._last_layer_first(F, offsets), [layer.seen for layer in factored]
        return order, -F.sum(mask * likelihood), F.sum(mask * F.BlockGrad(agreement)), *inputs

    def _last_layer_first(self, F: Any, offsets: Sequence[Any]) -> Any:
        """An output that makes the graph list the offsets first, and then the parameters of the last layer.

        MXNet computes gradients in the order in which the graph lists their variables. By default the parameters of the first
        layer are first. A gradient that needs an operation of its own (an offset's, and those of weight and bias of a
        :class:`MatrixConv2D`) would then be computed at the end of the backward pass, and its reduction would start late.
        """
        parameters = [p for name, p in self.network.collect_params().items() if name.endswith(("_weight", "_bias"))]
        named = [*(p.var() if F is mx.symbol else p.data() for p in parameters), *offsets]
        # An operator without a gradient: that of a slice has the size of the weight, and is added to the weight's gradient.
        return F.add_n(*(F.size_array(one) for one in reversed(named)))


@dataclass(frozen=True)
class StepOutcome:
    """Results of a step, on the device: this rank's sums, and norms of the gradient.

    Attributes:
        loss: sum of the loss over this rank's samples.
        hits: predictions that agree with the target.
        gradient_norm: global norm of the mean gradient before clipping; None if not requested.
        finite: ``(1,)``: 1 if all gradients are finite, 0 if the update was skipped; None if steps are never skipped.
        flags: the flags that were passed in, in flight: they become the sum over the ranks.
        layer_norms: by metric name (:func:`~vggdist.training.layer_norms.layer_norms`), of the mean gradient before clipping
            and of the weights before the update; empty if not requested.
    """

    loss: mx.nd.NDArray
    hits: mx.nd.NDArray
    gradient_norm: mx.nd.NDArray | None
    finite: mx.nd.NDArray | None
    flags: mx.nd.NDArray
    layer_norms: Mapping[str, mx.nd.NDArray] = field(default_factory=dict)


class TrainStep:
    """Updates the network with one global batch.

    Attributes:
        loss_scale: of the next step.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        average: WeightAverage,
        world: World,
        config: Config,
        device: mx.Context,
        batch_size: int,
    ) -> None:
        """Prepare what is the same in all steps; every rank must call this.

        Args:
            batch_size: samples of each rank.
        """
        self._objective = objective
        self._optimizer = optimizer
        self._average = average
        self._world = world
        self._config = config
        self._device = device
        self.loss_scale = LossScale(config.train)
        self._has_dropout = _has_dropout(objective)
        parameters = list(objective.collect_params().items())  # in the order of the layers
        self._trained = {name: parameter for name, parameter in parameters if parameter.grad_req != "null"}
        offsets = {name: name[: name.rindex("running_")] + "beta" for name, _ in parameters if "_running_" in name}
        self._offsets = [offset for offset in offsets.values() if offset in self._trained]  # frozen statistics do not change
        self._statistics = [parameter.data() for name, parameter in parameters if offsets.get(name) in self._trained]
        self._all = [mx.nd.ones_like(statistic) for statistic in self._statistics]
        weights = [parameter.data() for parameter in self._trained.values()]
        changed = [*weights, *optimizer.states.values(), *self._statistics, *average.arrays.values()]
        self._guard = Guard(changed) if config.train.can_skip else None
        if config.train.accumulation > 1:
            for parameter in self._trained.values():
                parameter.grad_req = "add"
        layers = fully_connected(objective.network)
        self._reduction = Reduction(world, config.train, layers, self._trained, self._statistics, batch_size)
        if world.size > 1:
            logger.info("each rank sends %s in a step: %s", readable_bytes(round(self._reduction.sent_bytes)), self._reduction)
        if self._reduction.overlaps:
            _release_each_gradient(objective, device)

    @property
    def reduction(self) -> str:
        """What the order of summation over the ranks depends on, as text."""
        return str(self._reduction)

    def with_collectives(self, collectives: Collectives) -> TrainStep:
        """The same step with other collectives, for measurements."""
        step = copy.copy(self)
        step._reduction = self._reduction.with_collectives(collectives)
        return step

    def __call__(
        self, batch: Batch, step: int, learning_rate: float, num_valid: int, flags: mx.nd.NDArray, measure: bool
    ) -> StepOutcome:
        """Enqueue the step.

        Args:
            batch: this rank's part.
            step: global step from 0; with seed and rank, it determines all random numbers of the step.
            num_valid: samples of the global batch that are not padding.
            flags: small array that is summed over the ranks along with the gradients, in place.
            measure: compute the gradient's norm, and with ``run.layer_norms`` each layer's (a pass over all gradients).
        """
        if self._has_dropout:  # seeding takes milliseconds on a CPU
            mx.random.seed(step_seed(self._config.run.seed, step, self._world.rank), ctx=self._device)
        scale = self.loss_scale.value
        if self._guard is not None:
            self._guard.save()
        losses, hits = self._accumulate(batch, num_valid, scale)
        self._order_statistics_after_backward()
        gradients = self._reduction(flags)
        # The reduced gradients are equal on all ranks, so all ranks skip the update, or none.
        finite = all_finite(gradients.values()) if self._guard is not None else None
        layers = self._layer_norms(gradients, scale) if measure and self._config.run.layer_norms else {}
        limit = self._config.optimizer.clip_norm
        norm = clip(gradients, limit, 1 / scale) if limit is not None else global_norm(gradients) / scale if measure else None
        self._optimizer.update(gradients, step, learning_rate, 1 / scale)
        self._average.update(step)
        if self._guard is not None and finite is not None:
            self._guard.restore_unless(finite)
            self.loss_scale.note(finite)
        if self._config.train.accumulation > 1:
            self._reduction.clear()
        return StepOutcome(losses, hits, norm, finite, flags, layers)

    def _layer_norms(self, gradients: Mapping[str, mx.nd.NDArray], scale: float) -> dict[str, mx.nd.NDArray]:
        weights = {name: parameter.data() for name, parameter in self._trained.items()}
        return layer_norms(weights, gradients, scale, self._objective.network.prefix)

    def _accumulate(self, batch: Batch, num_valid: int, scale: float) -> tuple[mx.nd.NDArray, mx.nd.NDArray]:
        """Forward and backward passes over the parts of a batch.

        Afterwards the gradients are ``scale`` times this rank's share of the mean over the global batch.
        """
        losses, hits = [], []
        size = len(batch.labels) // self._config.train.accumulation
        for start in range(0, len(batch.labels), size):
            arrays = on_device(batch, slice(start, start + size), self._device)
            with autograd.record():
                _, loss, hit, *inputs = self._objective(*arrays, *self._reduction.offsets)
                share = loss / (num_valid / scale)
            share.backward()
            self._reduction.store_factors(inputs)
            losses.append(loss)
            hits.append(hit)
        return _total(losses), _total(hits)

    def _order_statistics_after_backward(self) -> None:
        """Make later reads of the running statistics depend on the backward pass.

        On a CPU batch normalisation updates them in its backward pass, and MXNet's engine does not know it: a reduction or a
        checkpoint would read the values of the step before. The engine does know that this operation writes the gradient of
        the offset, so the statistics are rewritten by an operation that reads that gradient.
        """
        for statistic, everything, offset in zip(self._statistics, self._all, self._offsets):
            mx.nd.where(everything, statistic, self._trained[offset].grad(), out=statistic)


def on_device(batch: Batch, part: slice, device: mx.Context) -> tuple[mx.nd.NDArray, ...]:
    """Copy a part of a batch to the device: images, labels, partners, weights, mask."""
    fields = (batch.images, batch.labels, batch.partners, batch.weights, batch.mask)
    return tuple(mx.nd.array(field[part], ctx=device, dtype=field.dtype) for field in fields)


def _release_each_gradient(objective: Objective, device: mx.Context) -> None:
    """Make the engine release each gradient as soon as it is computed.

    By default MXNet fuses 15 nodes of the backward pass into one operation, and releases their gradients at its end. On a GPU
    that saves a synchronisation for each node, so the environment's value stays (:mod:`vggdist.environment.presets`).
    """
    if device.device_type == "cpu" and "MXNET_EXEC_BULK_EXEC_MAX_NODE_TRAIN_BWD" not in os.environ:
        objective.hybridize(static_alloc=True, static_shape=True, backward_bulk_size=1)


def _has_dropout(network: gluon.Block) -> bool:
    """Whether a step uses MXNet's random generators."""
    blocks: list[gluon.Block] = []
    network.apply(blocks.append)
    return any(isinstance(block, gluon.nn.Dropout) for block in blocks)


def _total(values: Sequence[mx.nd.NDArray]) -> mx.nd.NDArray:
    return values[0] if len(values) == 1 else mx.nd.add_n(*values)
