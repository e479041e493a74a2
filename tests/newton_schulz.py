"""The Newton-Schulz iteration of Muon in float64, as it is defined."""

from __future__ import annotations

import numpy as np


def by_definition(matrix: np.ndarray, iterations: int) -> np.ndarray:
    """X = a X + (b X X^T + c (X X^T)^2) X for the matrix as it is, without a transposition."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(iterations):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x
