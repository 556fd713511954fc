"""The z-step: the auxiliary response that serves the activation and the regression at once (§2.3, eq. 7-9).

For a target y, a prediction ŷ and a weight λ, elementwise:

    z(y, ŷ) = argmin_z (r(y) − r(z))² + λ (z − ŷ)²

ReLU, r(z) = max(0, z), has two candidates: z₀ = min(0, ŷ) with r(z₀) = 0, and z₁ = max(0, (λŷ + r(y)) / (λ+1)).
Comparing their costs gives one threshold: with κ = √(1 + 1/λ) − 1, z₁ wins exactly where ŷ > −κ r(y), and there

    z₁ = ŷ + (r(y) − ŷ) / (λ+1);      elsewhere z₀ = ŷ.

For ŷ ≥ 0 the difference of the costs is (r(y) + λŷ)² / (λ+1) ≥ 0; for ŷ < 0 it is r(y)² − λ/(λ+1) (r(y) − ŷ)².
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NONLINEAR = ("Relu",)
"""Activations with a z-step; every other layer is solved linearly."""


def apply(activation: str | None, y: Array) -> Array:
    """r(y), elementwise; the identity where there is no activation."""
    return np.maximum(y, 0) if activation == "Relu" else y


def slope(activation: str | None, y: Array) -> Array:
    """r′(y), elementwise, in the type of y."""
    return np.asarray(y > 0, y.dtype) if activation == "Relu" else np.ones_like(y)


def z_step(activation: str, target: Array, prediction: Array, weight: float) -> Array:
    """The minimising auxiliary responses.

    Parameters
    ----------
    activation
        One of ``NONLINEAR``.
    target
        r(y), the original's responses behind the activation, [n, d].
    prediction
        ŷ, [n, d].
    weight
        λ > 0.

    Returns
    -------
    Array
        z, [n, d], in a new array.
    """
    assert activation == "Relu", activation
    kappa = math.sqrt(1 + 1 / weight) - 1
    step = target - prediction
    step *= 1 / (weight + 1)
    step *= prediction > -kappa * target
    step += prediction
    return step
