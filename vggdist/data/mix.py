"""Other samples that are mixed into those of a batch."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.special import betaincinv


def blend(images: np.ndarray, others: np.ndarray, weights: np.ndarray) -> None:
    """Set each of ``(B, H, W, C) uint8`` images to ``weight * image + (1 - weight) * other``, rounded; weights ``(B,)``."""
    for image, other, weight in zip(images, others, weights.tolist(), strict=True):
        cv2.addWeighted(image, weight, other, 1 - weight, 0, dst=image)


def beta_quantiles(alpha: float, draws: np.ndarray) -> np.ndarray:
    """Quantiles of Beta(alpha, alpha): ``(B,)`` draws in [0, 1) to ``(B,) float32`` weights."""
    return betaincinv(alpha, alpha, draws).astype(np.float32)
