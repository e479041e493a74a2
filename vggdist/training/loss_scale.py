"""The factor by which the loss is multiplied before the backward pass, so that small gradients do not vanish in float16.

Micikevicius et al. 2018, "Mixed Precision Training", section 3.2: the scale is halved when a gradient overflows, and that
step's update is left out; it is doubled after many steps without overflow. One scale serves the backward pass and what travels
as float16: the largest that both of them hold.
"""

from __future__ import annotations

import mxnet as mx

from vggdist.checkpoints.schema import LossScaleState
from vggdist.config.errors import RunError, agreed
from vggdist.config.schema import TrainConfig

FIRST, SMALLEST, LARGEST = 2.0**16, 2.0**-14, 2.0**24
"""Of a dynamic scale. The first and the largest one are those of MXNet's AMP."""
COMPRESSED = 1024.0
"""The scale where gradients travel as float16: a mean's share is small, never near float16's largest 65,504, but often below
its smallest 6e-8. A power of two moves all of them into range without rounding; what then is 64 and more overflows."""
GOOD_STEPS = 2000
"""Steps without overflow after which the scale is doubled."""


class LossScale:
    """The scale of the next step. All ranks have the same, since all look at the same reduced gradients.

    Whether a step overflowed is read when the next one has been handed to the device, so nothing waits for it: the scale
    changes two steps after the overflow.
    """

    def __init__(self, train: TrainConfig) -> None:
        """Begin with what the configuration asks for."""
        self.is_dynamic = train.has_dynamic_loss_scale
        first = COMPRESSED if train.compression == "fp16" else FIRST if self.is_dynamic else 1.0
        self.value = float(train.loss_scale) if isinstance(train.loss_scale, int | float) else first
        self._good_steps = 0
        self._unread: mx.nd.NDArray | bool | None = None

    def note(self, finite: mx.nd.NDArray) -> None:
        """Take in a step, and change the scale by the step before it.

        Args:
            finite: ``(1,)`` on the device: 1 where all gradients of the step are finite, else 0.

        Raises:
            RunError: on every rank, when gradients stay not finite however small the scale is.
        """
        if self.is_dynamic:
            self._read()
            self._unread = finite

    def metrics(self) -> dict[str, float]:
        """The scale of the next step, where it changes."""
        return {"optim/loss_scale": self.value} if self.is_dynamic else {}

    def state(self) -> LossScaleState | None:
        """For a checkpoint; waits for the newest step. None of a fixed scale."""
        if not self.is_dynamic:
            return None
        if isinstance(self._unread, mx.nd.NDArray):
            self._unread = _is_finite(self._unread)
        return {"scale": self.value, "good_steps": self._good_steps, "finite": self._unread}

    def restore(self, state: LossScaleState | None) -> None:
        """Continue from what :meth:`state` returned; a fixed scale stays as it was asked for."""
        if self.is_dynamic and state is not None:
            self.value, self._good_steps, self._unread = state["scale"], state["good_steps"], state["finite"]

    def _read(self) -> None:
        if self._unread is None:
            return
        finite = self._unread if isinstance(self._unread, bool) else _is_finite(self._unread)
        self._good_steps = self._good_steps + 1 if finite else 0
        if not finite:
            self.value /= 2
        elif self._good_steps == GOOD_STEPS:
            self.value, self._good_steps = min(2 * self.value, LARGEST), 0
        if self.value < SMALLEST:
            raise agreed(
                RunError(
                    f"the gradients are not finite, though the loss was scaled down to {SMALLEST:g}: lower "
                    "optimizer.learning_rate, or use --train.precision float32"
                )
            )


def _is_finite(flag: mx.nd.NDArray) -> bool:
    return bool(flag.asscalar() == 1)
