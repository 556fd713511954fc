"""The structural similarity of two pictures (Wang, Bovik, Sheikh and Simoncelli 2004, equation 13).

With local means µ, variances σ² and covariance σ_xy under a Gaussian window of 1.5 pixels,

    SSIM = (2 µ_x µ_y + C₁)(2 σ_xy + C₂) / ((µ_x² + µ_y² + C₁)(σ_x² + σ_y² + C₂)),   C₁ = (0.01 L)², C₂ = (0.03 L)²,

where L is the range of values; the mean over all pixels is the result. Colours are taken one by one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Array = NDArray[Any]

SIGMA, RADIUS = 1.5, 5
"""The window in pixels: 11 × 11, as in the paper."""


def structural_similarity(one: Array, other: Array, peak: float) -> float:
    """Return the mean similarity of two pictures [channels, height, width] whose values span ``peak``."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    variance_x, variance_y = _window(x * x) - mean_x**2, _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    light = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    # Windows that reach beyond the edge see pixels twice, and do not count where there are others.
    inside = tuple(slice(RADIUS, -RADIUS) if side > 2 * RADIUS else slice(None) for side in x.shape[1:])
    return float((light * structure)[:, *inside].mean())


def _window(values: Array) -> Array:
    result: Array = gaussian_filter(values, (0, SIGMA, SIGMA), radius=(0, RADIUS, RADIUS))
    return result
