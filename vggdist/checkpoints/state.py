"""The arrays of a training by name: collecting, restoring, comparing and hashing them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import mxnet as mx
import numpy as np
from numpy.typing import NDArray

from vggdist.config.errors import RequestError
from vggdist.models.model import PREFIX

AVERAGE = "average/"
"""Prefix of the names of averaged parameters in a checkpoint."""


def named_arrays(
    parameters: Mapping[str, mx.gluon.Parameter],
    optimizer_states: Mapping[str, mx.nd.NDArray],
    averages: Mapping[str, mx.nd.NDArray],
) -> dict[str, mx.nd.NDArray]:
    """All arrays on the device that a run continues from, by name in a checkpoint.

    Args:
        averages: of the parameters, by name; empty if there are none.
    """
    arrays = {f"{PREFIX}{name}": parameter.data() for name, parameter in sorted(parameters.items())}
    arrays.update({f"optimizer/{name}": state for name, state in sorted(optimizer_states.items())})
    arrays.update({f"{AVERAGE}{name}": average for name, average in sorted(averages.items())})
    return arrays


def restore(
    arrays: Mapping[str, mx.nd.NDArray], stored: Mapping[str, NDArray[Any]], distribute: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    """Set the device's arrays.

    Args:
        stored: name -> array from a checkpoint; only that of one rank is used.
        distribute: broadcasts that rank's values.
    """
    for name, array in arrays.items():
        values = stored[name] if name in stored else np.empty(array.shape, array.dtype)
        # Through a new array: assigning numpy to weights in oneDNN's layout fails.
        array[:] = mx.nd.array(distribute(values), ctx=array.context, dtype=array.dtype)


def require_match(arrays: Mapping[str, mx.nd.NDArray], stored: Mapping[str, NDArray[Any]]) -> None:
    """Compare a checkpoint with the arrays of this run.

    Raises:
        RequestError: an array is missing, superfluous, or of another shape or type; the message names the first.
    """
    advice = "continue with the model and optimizer of that run, or use another --run.name"
    for name, array in arrays.items():
        if name not in stored:
            raise RequestError(f"the checkpoint has no {name}; {advice}")
        if stored[name].shape != array.shape:
            raise RequestError(f"the checkpoint's {name} has shape {stored[name].shape}, not {array.shape}; {advice}")
        if stored[name].dtype != np.dtype(array.dtype):
            raise RequestError(f"the checkpoint's {name} is {stored[name].dtype}, not {np.dtype(array.dtype)}; {advice}")
    if extra := sorted(set(stored) - set(arrays)):
        raise RequestError(f"the checkpoint has {extra[0]}, which this run does not; {advice}")


def digests(arrays: Mapping[str, mx.nd.NDArray | NDArray[Any]]) -> dict[str, str]:
    """SHA-256 of each array's values, by name."""
    return {name: hashlib.sha256(_values(array).tobytes()).hexdigest() for name, array in arrays.items()}


def _values(array: mx.nd.NDArray | NDArray[Any]) -> NDArray[Any]:
    return array if isinstance(array, np.ndarray) else array.asnumpy()


def digest(arrays: Mapping[str, mx.nd.NDArray | NDArray[Any]]) -> str:
    """SHA-256 over all names and values."""
    return hashlib.sha256("\n".join(f"{name} {value}" for name, value in digests(arrays).items()).encode()).hexdigest()
