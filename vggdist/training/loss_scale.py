"""The loss scale: the factor of the loss before the backward pass, so that small gradients do not vanish in float16.

Micikevicius et al. 2018, "Mixed Precision Training", section 3.2: the scale is halved when a gradient overflows, and that
step's update is skipped; it is doubled after many steps without overflow. One scale serves the backward pass and the float16
compression of what is sent.
"""

from __future__ import annotations

import mxnet as mx

from vggdist.checkpoints.schema import LossScaleState
from vggdist.config.errors import RunError, agreed
from vggdist.config.schema import TrainConfig

FIRST, SMALLEST, LARGEST = 2.0**16, 2.0**-14, 2.0**24
"""Values of a dynamic scale. The first and the largest one are those of MXNet's AMP."""
COMPRESSED = 1024.0
"""The scale if gradients are sent as float16. A rank's share of the mean is far below float16's largest value 65,504, but
often below its smallest 6e-8. A power of two moves it into range without rounding; values from 64 on overflow."""
GOOD_STEPS = 2000
"""Steps without overflow after which the scale is doubled."""


class LossScale:
    """The loss scale of the next step. All ranks have the same, since all use the same reduced gradients.

    Whether a step overflowed is read when the next step has been enqueued, so nothing waits for it: the scale changes two
    steps after the overflow.
    """

    def __init__(self, train: TrainConfig) -> None:
        """Start with the scale of the configuration."""
        self.is_dynamic = train.has_dynamic_loss_scale
        first = COMPRESSED if train.compression == "fp16" else FIRST if self.is_dynamic else 1.0
        self.value = float(train.loss_scale) if isinstance(train.loss_scale, int | float) else first
        self._good_steps = 0
        self._unread: mx.nd.NDArray | bool | None = None

    def note(self, finite: mx.nd.NDArray) -> None:
        """Store the result of a step, and adjust the scale to the step before it.

        Args:
            finite: ``(1,)`` on the device: 1 if all gradients of the step are finite, else 0.

        Raises:
            RunError: on every rank, when gradients are not finite even with the smallest scale.
        """
        if self.is_dynamic:
            self._read()
            self._unread = finite

    def metrics(self) -> dict[str, float]:
        """The scale of the next step, if it is dynamic."""
        return {"optim/loss_scale": self.value} if self.is_dynamic else {}

    def state(self) -> LossScaleState | None:
        """The state for a checkpoint; waits for the newest step. None for a fixed scale."""
        if not self.is_dynamic:
            return None
        if isinstance(self._unread, mx.nd.NDArray):
            self._unread = _is_finite(self._unread)
        return {"scale": self.value, "good_steps": self._good_steps, "finite": self._unread}

    def restore(self, state: LossScaleState | None) -> None:
        """Continue from what :meth:`state` returned; a fixed scale is not changed."""
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
