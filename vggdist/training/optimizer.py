"""Optimizers on MXNet's fused operators, whose only state is arrays by parameter name.

``mx.optimizer`` counts updates itself and saves by pickle; here the step and the learning rate are arguments, so a
checkpoint holds plain arrays and a resumed run uses the hyper-parameters of its configuration. Nothing in this file
waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import mxnet as mx
from mxnet.ndarray import NDArray

from vggdist.config.schema import OptimizerConfig
from vggdist.models.layers import OUTPUT_WEIGHT
from vggdist.training.newton_schulz import orthogonalized
from vggdist.training.norms import sum_of_squares
from vggdist.training.parameter_groups import group_factors

# One-dimensional parameters: weight decay of scales and offsets does not help (He et al. 2019, section 3.1).
UNDECAYED = ("_bias", "_gamma", "_beta")


class Optimizer:
    """Updates parameters in place by the rule that the configuration names.

    ``parameters`` are the trainable ones by name, initialised, on one device each; those in ``backbone`` are updated
    at ``optimizer.backbone_rate`` times the learning rate, and those in a group of ``optimizer.groups`` at the group's factor
    times that. A parameter whose learning rate has the factor 0 keeps its value, and its states stay zero.

    ``states`` maps ``"<parameter>/<momentum | mean | variance>"`` to an array of the parameter's shape, type and device, zero
    at first; to restore a checkpoint, assign to the arrays in place (``states[key][:] = ...``).

    A parameter of unknown shape raises MXNet's ``DeferredInitializationError``: run one batch first. A group without a
    parameter raises :class:`~vggdist.config.errors.RequestError`.
    """

    states: dict[str, NDArray]

    def __init__(
        self, config: OptimizerConfig, parameters: Mapping[str, mx.gluon.Parameter], backbone: Collection[str] = ()
    ) -> None:
        self.config = config
        self.parameters = dict(parameters)
        self._groups = group_factors(config.groups, list(parameters))
        self._factors = {name: config.backbone_rate if name in backbone else 1.0 for name in parameters}
        for name, group in self._groups.items():
            self._factors[name] *= group.rate
        self.states = {
            f"{name}/{kind}": mx.nd.zeros_like(parameter.data())
            for name, parameter in self.parameters.items()
            for kind in config.states
        }
        rules = {
            "sgd": self._sgd,
            "nag": self._nag,
            "adam": self._adam,
            "adamw": self._adamw,
            "lars": self._lars,
            "muon": self._muon,
        }
        self._update_one = rules[config.name]

    def update(
        self,
        gradients: Mapping[str, NDArray],
        step: int,
        learning_rate: float,
        scale: float = 1.0,
    ) -> None:
        """Update every parameter once, in place, without waiting for the device.

        Args:
            gradients: an array for each parameter.
            step: 0-based global step, for Adam's bias correction.
            scale: factor of each gradient.

        Raises:
            KeyError: a parameter has no gradient.
        """
        for name, parameter in self.parameters.items():
            if self._factors[name] == 0:
                continue
            weight, gradient = parameter.data(), gradients[name]
            self._update_one(name, weight, gradient, step, learning_rate * self._factors[name], scale)

    def decay(self, name: str) -> float:
        """Weight decay of a parameter.

        In a group of ``optimizer.groups`` it is the group's factor times ``optimizer.weight_decay``. Outside, biases and
        batch-norm parameters have none unless ``optimizer.decay_all``.
        """
        if name in self._groups:
            return self._groups[name].decay * self.config.weight_decay
        return 0.0 if name.endswith(UNDECAYED) and not self.config.decay_all else self.config.weight_decay

    def _sgd(self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float) -> None:
        """v = momentum v - rate (g + decay w); w = w + v."""
        options = {"lr": rate, "wd": self.decay(name), "rescale_grad": scale, "out": weight}
        momentum = self.states.get(f"{name}/momentum")
        if momentum is None:
            mx.nd.sgd_update(weight, gradient, **options)
        else:
            mx.nd.sgd_mom_update(weight, gradient, momentum, momentum=self.config.momentum, **options)

    def _nag(self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float) -> None:
        """v = momentum v - rate (g + decay w); w = w + momentum v - rate (g + decay w) (Sutskever et al. 2013)."""
        # Not in place: the operator writes the weight before it reads it again for the momentum, so with out=weight the
        # momentum would decay by the new weight (MXNet 1.9.1, mx.optimizer.NAG included).
        updated = mx.nd.nag_mom_update(
            weight,
            gradient,
            self.states[f"{name}/momentum"],
            lr=rate,
            momentum=self.config.momentum,
            wd=self.decay(name),
            rescale_grad=scale,
        )
        updated.copyto(weight)

    def _adam(self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float) -> None:
        """Adam with the decay in the gradient (Kingma & Ba 2015, algorithm 1)."""
        self._adam_step(name, weight, gradient, step, rate, scale, decay=self.decay(name))

    def _adamw(self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float) -> None:
        """w = w - rate (mean / (sqrt(variance) + epsilon) + decay w) (Loshchilov & Hutter 2019, algorithm 2)."""
        # The decay is a step of plain SGD along w itself. contrib.adamw_update would read a scale back from the device
        # for each parameter, and silently skip the update where that scale is 0 or not finite.
        if decay := self.decay(name):
            mx.nd.sgd_update(weight, weight, lr=rate * decay, out=weight)
        self._adam_step(name, weight, gradient, step, rate, scale, decay=0.0)

    def _adam_step(
        self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float, decay: float
    ) -> None:
        config = self.config
        mean_correction = 1 - config.beta1 ** (step + 1)
        root_correction = math.sqrt(1 - config.beta2 ** (step + 1))
        # The operator has no bias correction. Both corrections move into the rate, and epsilon is scaled with them, so
        # that it is added to the *corrected* root as in the paper (MXNet's own Adam does not scale epsilon).
        mx.nd.adam_update(
            weight,
            gradient,
            self.states[f"{name}/mean"],
            self.states[f"{name}/variance"],
            lr=rate * root_correction / mean_correction,
            epsilon=config.epsilon * root_correction,
            beta1=config.beta1,
            beta2=config.beta2,
            wd=decay,
            rescale_grad=scale,
            out=weight,
        )

    def _lars(self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float) -> None:
        """SGD with momentum at rate x trust |w| / (|g| + decay |w| + epsilon) (You et al. 2017, algorithm 1).

        A weight or gradient of norm 0 is updated at the plain rate, and so are biases and batch-norm parameters.
        """
        if name.endswith(UNDECAYED):
            return self._sgd(name, weight, gradient, step, rate, scale)
        config, one = self.config, mx.nd.ones((1,), ctx=weight.context)
        decay = one * self.decay(name)
        layer_rate = mx.nd.multi_lars(
            one * rate,
            sum_of_squares(weight),
            sum_of_squares(gradient),
            decay,
            eta=config.lars_trust,
            eps=config.epsilon,
            rescale_grad=scale,
        )
        # The "preloaded" operator reads its rate on the device, where the norms are: no wait.
        mx.nd.preloaded_multi_sgd_mom_update(
            weight,
            gradient,
            self.states[f"{name}/momentum"],
            layer_rate,
            decay,
            momentum=config.momentum,
            rescale_grad=scale,
            num_weights=1,
            out=weight,
        )

    def _muon(self, name: str, weight: NDArray, gradient: NDArray, step: int, rate: float, scale: float) -> None:
        """v = momentum v + g; w = w - rate (orthogonalized(g + momentum v) + decay w) (Jordan et al. 2024).

        The rule of convolutions, as matrices (O, I * 9), and of hidden fully connected layers. Other parameters are updated as
        by nag. Where batch normalisation follows, w is first scaled to norm sqrt(rows) instead of decayed. That does not
        change the network's function, but the angle of an update then depends on the rate only.
        """
        if not name.endswith("_weight") or name == OUTPUT_WEIGHT:
            return self._nag(name, weight, gradient, step, rate, scale)
        state, momentum, rows = self.states[f"{name}/momentum"], self.config.momentum, weight.shape[0]
        gradient = scale * gradient  # the true gradient: a loss scale that changes must not change its share in the momentum
        mx.nd.elemwise_add(momentum * state, gradient, out=state)
        direction = (gradient + momentum * state).reshape((rows, -1))
        update = orthogonalized(direction, self.config.muon_iterations).reshape(weight.shape)
        if f"{name.removesuffix('weight')}norm_gamma" in self.parameters:
            factor = math.sqrt(rows) / (sum_of_squares(weight).sqrt() + 1e-12)
            mx.nd.broadcast_mul(weight, factor.reshape((1,) * weight.ndim), out=weight)
        elif decay := self.decay(name):
            mx.nd.sgd_update(weight, weight, lr=rate * decay, out=weight)
        mx.nd.sgd_update(weight, update, lr=rate, out=weight)
