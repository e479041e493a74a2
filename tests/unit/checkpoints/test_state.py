"""Parameters and optimizer states are stored and restored by name; a mismatch is named."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from vggdist.checkpoints.state import digest, digests, named_arrays, require_match, restore
from vggdist.config.errors import RequestError


def device_arrays(start: float = 0.0) -> dict[str, mx.nd.NDArray]:
    return {
        "parameter/a": mx.nd.arange(start, start + 6).reshape((2, 3)),
        "parameter/b": mx.nd.array([start, -1.5]),
        "optimizer/a/0": mx.nd.ones((2, 3)) * start,
    }


def on_host(arrays: dict[str, mx.nd.NDArray]) -> dict[str, np.ndarray]:
    """The arrays in a checkpoint."""
    return {name: array.asnumpy() for name, array in arrays.items()}


def same(arrays: np.ndarray) -> np.ndarray:
    """The broadcast of a single rank."""
    return arrays


def test_names_distinguish_parameters_states_and_averages_in_a_fixed_order() -> None:
    network = mx.gluon.nn.Dense(2, in_units=3, prefix="dense_")
    network.initialize()
    parameters = dict(reversed(list(network.collect_params().items())))
    states, averages = ({name: mx.nd.zeros(1) for name in names} for names in (("z/0", "dense_bias/0"), ("b", "a")))
    names = list(named_arrays(parameters, states, averages))
    assert names[:2] == ["parameter/dense_bias", "parameter/dense_weight"]
    assert names[2:] == ["optimizer/dense_bias/0", "optimizer/z/0", "average/a", "average/b"]


def test_what_was_stored_is_restored_bit_for_bit() -> None:
    source, target = device_arrays(0.1), device_arrays(7)
    restore(target, on_host(source), same)
    assert digest(target) == digest(source) != digest(device_arrays(7))


def test_a_rank_without_a_checkpoint_takes_what_is_distributed() -> None:
    stored, target = on_host(device_arrays(3)), device_arrays(8)
    values = iter(stored.values())
    shapes: list[tuple[tuple[int, ...], np.dtype]] = []

    def from_root(own: np.ndarray) -> np.ndarray:
        shapes.append((own.shape, own.dtype))
        return next(values)

    restore(target, {}, from_root)
    assert digest(target) == digest(device_arrays(3))
    assert shapes == [(array.shape, array.dtype) for array in stored.values()]


def test_restoring_a_network_changes_what_it_computes() -> None:
    networks = [mx.gluon.nn.Dense(2, in_units=3) for _ in range(2)]
    data = mx.nd.array([[1, 2, 3]])
    for network in networks:
        network.initialize(mx.init.Uniform(1))
        network.hybridize()
        network(data)
    first, second = (named_arrays(dict(zip("ab", network.collect_params().values())), {}, {}) for network in networks)
    restore(second, on_host(first), same)
    assert np.array_equal(networks[0](data).asnumpy(), networks[1](data).asnumpy())


def test_a_matching_checkpoint_passes() -> None:
    require_match(device_arrays(), on_host(device_arrays(5)))


def test_the_first_missing_array_is_named() -> None:
    stored = on_host(device_arrays())
    del stored["parameter/b"], stored["optimizer/a/0"]
    with pytest.raises(RequestError, match=r"has no parameter/b; .*--run\.name"):
        require_match(device_arrays(), stored)


def test_the_first_array_of_another_shape_is_named_with_both_shapes() -> None:
    stored = on_host(device_arrays()) | {"parameter/a": np.zeros((3, 2)), "parameter/b": np.zeros(9)}
    with pytest.raises(RequestError, match=r"parameter/a has shape \(3, 2\), not \(2, 3\)"):
        require_match(device_arrays(), stored)


@pytest.mark.parametrize("kind", ["float64", "float16", "int32", ">f4"])
def test_an_array_of_another_type_is_refused_and_not_cast(kind: str) -> None:
    stored = on_host(device_arrays())
    stored["parameter/b"] = stored["parameter/b"].astype(kind)
    with pytest.raises(RequestError, match=rf"parameter/b is {kind}, not float32"):
        require_match(device_arrays(), stored)


def test_the_first_superfluous_array_is_named() -> None:
    stored = on_host(device_arrays()) | {"parameter/z": np.zeros(1), "optimizer/c/0": np.zeros(1)}
    with pytest.raises(RequestError, match="has optimizer/c/0, which this run does not"):
        require_match(device_arrays(), stored)


def test_the_digest_sees_a_name_and_the_last_bit() -> None:
    arrays = device_arrays(1)
    renamed = {name.replace("/b", "/c"): array for name, array in arrays.items()}
    nudged = dict(arrays)
    nudged["parameter/b"] = mx.nd.array(np.nextafter(arrays["parameter/b"].asnumpy(), np.float32(9)))
    assert len({digest(arrays), digest(renamed), digest(nudged)}) == 3 and digest(arrays) == digest(device_arrays(1))


def test_a_change_of_one_value_changes_its_own_digest_alone() -> None:
    arrays = device_arrays()
    before, total = digests(arrays), digest(arrays)
    arrays["parameter/b"][1] = -1.5000001
    after = digests(arrays)
    assert [name for name in before if before[name] != after[name]] == ["parameter/b"] and digest(arrays) != total
