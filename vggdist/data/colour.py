"""Colour augmentation on bytes, without the GIL; jitter equals Pillow's ImageEnhance to within one level."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
# Principal components of the colours of ImageNet's pixels, on a scale from 0 to 1: each column is a direction in RGB, with the
# standard deviation along it, as published with fb.resnet.torch and Gluon.
_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
_DEVIATIONS = np.array([0.2175, 0.0188, 0.0045])


def brightness(
    images: NDArray[np.uint8], factors: NDArray[np.float64], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Blend ``(B, H, W, C) uint8`` with black by ``(B,)`` factors, into ``out`` (which may be ``images``)."""
    out = np.empty_like(images) if out is None else out
    for image, factor, result in zip(images, factors.tolist(), out, strict=True):
        cv2.convertScaleAbs(image, dst=result, alpha=factor)
    return out


def contrast(
    images: NDArray[np.uint8], factors: NDArray[np.float64], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Blend ``(B, H, W, C) uint8`` with the mean of each image's grey by ``(B,)`` factors."""
    out = np.empty_like(images) if out is None else out
    for image, factor, result in zip(images, factors.tolist(), out, strict=True):
        cv2.addWeighted(image, factor, image, 0, (1 - factor) * cv2.mean(_grey(image))[0], dst=result)
    return out


def saturation(
    images: NDArray[np.uint8], factors: NDArray[np.float64], out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Blend ``(B, H, W, C) uint8`` with its grey by ``(B,)`` factors; grey images are returned unchanged."""
    if images.shape[-1] == 1:
        return images
    out = np.empty_like(images) if out is None else out
    for image, factor, result in zip(images, factors, out, strict=True):
        cv2.transform(image, factor * np.eye(3) + (1 - factor) * _LUMA, dst=result)
    return out


def lighting(images: NDArray[np.uint8], shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Shift each image's colour along ImageNet's principal components, in place (Krizhevsky et al. 2012, section 4.1).

    Args:
        images: ``(B, H, W, 3) uint8``.
        shares: ``(B, 3)`` multiples of the standard deviation along each component.
    """
    shifts = np.zeros((len(images), 4))  # OpenCV's scalars have four elements
    shifts[:, :3] = np.rint(255 * (shares * _DEVIATIONS) @ _COMPONENTS.T)
    for image, shift in zip(images, shifts, strict=True):
        cv2.add(image, shift, dst=image)
    return images


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The ITU-R BT.601 luma ``(H, W)`` of ``(H, W, C)``."""
    return image[..., 0] if image.shape[-1] == 1 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
