"""Mixup and CutMix: mixing of a second sample into each sample of a batch."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from vggdist.data.crop_boxes import Box
from vggdist.data.randomness import Draws


def mix(
    images: NDArray[np.uint8], others: NDArray[np.uint8], mixup: float, cutmix: float, draws: Draws
) -> NDArray[np.float32]:
    """Mix another image into each of ``(B, S, S, C) uint8``, in place, by mixup or CutMix.

    Args:
        mixup: alpha of mixup's Beta distribution (Zhang et al. 2018); 0: off.
        cutmix: alpha of CutMix's Beta distribution (Yun et al. 2019); 0: off. With both, each is chosen with probability 1/2.

    Returns:
        ``(B,) float32`` weight of the original image: its mixing weight, or its fraction of the pixels.
    """
    pasted = draws.uniform("cutmix or mixup") < 0.5 if mixup and cutmix else np.full(len(images), cutmix > 0)
    weights = beta_quantiles(np.where(pasted, cutmix, mixup), draws.uniform("mixup weight"))
    rows, columns = (draws.integers(f"cutmix {axis}", images.shape[1]) for axis in ("row", "column"))
    for slot, (image, other) in enumerate(zip(images, others, strict=True)):
        weight = float(weights[slot])
        if pasted[slot]:
            box = cutmix_box(images.shape[1], weight, int(rows[slot]), int(columns[slot]))
            box.of(image)[:] = box.of(other)
            weights[slot] = 1 - box.height * box.width / images.shape[1] ** 2
        else:
            cv2.addWeighted(image, weight, other, 1 - weight, 0, dst=image)
    return weights


def cutmix_box(size: int, weight: float, row: int, column: int) -> Box:
    """The box that is replaced in an image with sides of ``size`` pixels (Yun et al. 2019, equation 2).

    It has a fraction of ``1 - weight`` of the area around a centre, and is clipped at the border.
    """
    half = int(size * math.sqrt(1 - weight)) // 2
    top, left = max(row - half, 0), max(column - half, 0)
    return Box(top, left, min(row + half, size) - top, min(column + half, size) - left)


def beta_quantiles(alphas: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.float32]:
    """Quantiles of Beta(alpha, alpha): ``(B,)`` alphas and draws in [0, 1) to ``(B,) float32`` weights."""
    return betaincinv(alphas, alphas, draws).astype(np.float32)
