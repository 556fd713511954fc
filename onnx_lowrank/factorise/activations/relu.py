"""The activation behind a layer and its z-step: auxiliary responses that serve it and the regression at once (§2.3).

For an activation r, a target y, a prediction ŷ and a weight λ, elementwise:

    z(y, ŷ) = argmin_z (r(y) − r(z))² + λ (z − ŷ)²                                            (eq. 7-9)

ReLU, r(z) = max(0, z), has two candidates: z₀ = min(0, ŷ) with r(z₀) = 0, and z₁ = max(0, (λŷ + r(y)) / (λ+1)).
Comparing their costs gives one threshold: with κ = √(1 + 1/λ) − 1, z₁ wins exactly where ŷ > −κ r(y), and there

    z₁ = ŷ + (r(y) − ŷ) / (λ+1);      elsewhere z₀ = ŷ.

For ŷ ≥ 0 the difference of the costs is (r(y) + λŷ)² / (λ+1) ≥ 0; for ŷ < 0 it is r(y)² − λ/(λ+1) (r(y) − ŷ)².

The paper treats the ReLU only. Other activations of straight pieces are in ``piecewise``, curved ones in ``smooth``.
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DIFFERENCE = 3e-3
"""Half the distance of a central difference, relative to 1 + |y|: about the cube root of float32's precision."""


class Activation(Protocol):
    """An elementwise function r with its z-step."""

    @property
    def name(self) -> str:
        """The name that ONNX or the literature gives it."""
        ...

    def apply(self, y: Array) -> Array:
        """Return r(y) for responses [n, d], in a new array."""
        ...

    def z_step(self, target: Array, prediction: Array, weight: float) -> Array:
        """Return the minimising auxiliary responses.

        Parameters
        ----------
        target
            r(y), [n, d]: the original's responses behind the activation.
        prediction
            ŷ, [n, d].
        weight
            λ > 0.

        Returns
        -------
        Array
            z, [n, d], in a new array.
        """
        ...


@dataclass(frozen=True)
class Relu:
    """The rectifier r(z) = max(0, z)."""

    name: str = "Relu"

    def apply(self, y: Array) -> Array:
        """Return r(y); see ``Activation``."""
        return np.maximum(y, 0)

    def z_step(self, target: Array, prediction: Array, weight: float) -> Array:
        """Return z in closed form; see ``Activation``."""
        kappa = math.sqrt(1 + 1 / weight) - 1
        step = target - prediction
        step *= 1 / (weight + 1)
        step *= prediction > -kappa * target
        step += prediction
        return step


RELU = Relu()


def apply(activation: Activation | None, y: Array) -> Array:
    """Return r(y), elementwise; without an activation this is y itself."""
    return y if activation is None else activation.apply(y)


def slope(activation: Activation | None, y: Array) -> Array:
    """Return r′(y), elementwise and in the type of y.

    Central differences are exact away from the kinks of piecewise-linear functions.
    """
    if activation is None:
        return np.ones_like(y)
    if isinstance(activation, Relu):
        return np.asarray(y > 0, y.dtype)
    step = DIFFERENCE * (1 + np.abs(y))
    return np.asarray((activation.apply(y + step) - activation.apply(y - step)) / (2 * step), y.dtype)
