"""Exponential moving average of the weights: smoother than the weights, and kept beside them (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mxnet as mx


class WeightAverage:
    """The average of a network's parameters over its steps; empty, and without effect, if ``optimizer.ema_decay`` is 0.

    Attributes:
        arrays: the average of each parameter, by name, including the running statistics of batch normalisation. Before the
            first step it is the parameter.
    """

    def __init__(self, decay: float, parameters: Mapping[str, mx.gluon.Parameter]) -> None:
        """Copy the parameters, which are initialised.

        Args:
            decay: share of the average that remains after a step; 0: no average.
        """
        self._decay = decay
        self._parameters = {name: parameter.data() for name, parameter in parameters.items()} if decay else {}
        self.arrays = {name: parameter.copy() for name, parameter in self._parameters.items()}

    def update(self, step: int) -> None:
        """Include the parameters after a step in the average, without waiting for the device.

        The decay of the first steps is lower, ``(1 + step) / (10 + step)``, so that the initial parameters lose their
        influence soon (as in TensorFlow's ``ExponentialMovingAverage``).

        Args:
            step: the step's number from 0.
        """
        decay = min(self._decay, (1 + step) / (10 + step))
        for name, average in self.arrays.items():
            # parameter + decay (average - parameter), in place, so that a constant parameter keeps its bits.
            mx.nd.elemwise_sub(average, self._parameters[name], out=average)
            mx.nd.sgd_update(self._parameters[name], average, lr=-decay, wd=0, out=average)

    @contextmanager
    def in_network(self) -> Iterator[None]:
        """Within this context the network has the averages for its parameters; afterwards its own, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, average in self.arrays.items():
            parameter = self._parameters[name]
            before = parameter.copy()
            average.copyto(parameter)
            before.copyto(average)
