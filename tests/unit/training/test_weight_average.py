"""The moving average of the weights: its values, and its use within an evaluation."""

from __future__ import annotations

import mxnet as mx
import pytest

from vggdist.training.weight_average import WeightAverage


def parameters(*values: float) -> dict[str, mx.gluon.Parameter]:
    made = {}
    for number, value in enumerate(values):
        made[str(number)] = mx.gluon.Parameter(str(number), shape=(3,))
        made[str(number)].initialize(mx.init.Constant(value))
    return made


def values(arrays: dict[str, mx.gluon.Parameter] | dict[str, mx.nd.NDArray]) -> list[float]:
    return [(one.data() if isinstance(one, mx.gluon.Parameter) else one).asnumpy()[0] for one in arrays.values()]


def test_the_average_has_a_lower_decay_in_the_first_steps() -> None:
    network = parameters(1, 0.3)
    average = WeightAverage(0.4, network)
    assert values(average.arrays) == values(network)
    expected = 1.0
    for step, decay in enumerate([1 / 10, 2 / 11, 3 / 12, 4 / 13, 5 / 14, 0.4, 0.4]):
        network["0"].set_data(mx.nd.full((3,), 2 + step**2))
        average.update(step)
        expected = decay * expected + (1 - decay) * (2 + step**2)
        assert values(average.arrays)[0] == pytest.approx(expected, rel=1e-6)
        assert values(average.arrays)[1] == values(network)[1]  # not trained: the same bits


def test_within_the_context_the_network_has_the_averages_also_if_it_fails() -> None:
    network = parameters(1)
    average = WeightAverage(0.9, network)
    network["0"].set_data(mx.nd.full((3,), 0.1))
    average.update(0)
    own, averaged = values(network), values(average.arrays)
    with pytest.raises(OSError), average.in_network():
        assert values(network) == averaged != own
        raise OSError
    assert (values(network), values(average.arrays)) == (own, averaged)


def test_without_a_decay_there_is_no_average() -> None:
    network = parameters(1)
    average = WeightAverage(0, network)
    average.update(0)
    with average.in_network():
        assert average.arrays == {} and values(network) == [1]
