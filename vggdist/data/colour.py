"""Colour jitter as in Pillow's ImageEnhance, to within one level, on bytes and without the interpreter's lock."""

from __future__ import annotations

import cv2
import numpy as np

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def brightness(images: np.ndarray, factors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Blend ``(B, H, W, C) uint8`` with black by ``(B,)`` factors, into ``out`` (which may be ``images``)."""
    out = np.empty_like(images) if out is None else out
    for image, factor, result in zip(images, factors.tolist(), out, strict=True):
        cv2.convertScaleAbs(image, dst=result, alpha=factor)
    return out


def contrast(images: np.ndarray, factors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Blend ``(B, H, W, C) uint8`` with the mean of each image's grey by ``(B,)`` factors."""
    out = np.empty_like(images) if out is None else out
    for image, factor, result in zip(images, factors.tolist(), out, strict=True):
        cv2.addWeighted(image, factor, image, 0, (1 - factor) * cv2.mean(_grey(image))[0], dst=result)
    return out


def saturation(images: np.ndarray, factors: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Blend ``(B, H, W, C) uint8`` with its grey by ``(B,)`` factors; grey images stay as they are."""
    if images.shape[-1] == 1:
        return images
    out = np.empty_like(images) if out is None else out
    for image, factor, result in zip(images, factors, out, strict=True):
        cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA, dst=result)
    return out


def _grey(image: np.ndarray) -> np.ndarray:
    """``(H, W, C)`` to its ITU-R BT.601 luma ``(H, W)``."""
    return image[..., 0] if image.shape[-1] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
