"""The coordinates in which the factors of a chain descend, and the gradient of the nonlinear objective in them.

Raw columns u are so correlated that V would hardly move, and layers differ in scale. With the columns' mean ū and
covariance C = L Lᵀ and the size σ of the responses behind the activation, the descent therefore moves

    A = V L,     S,     H₁, …, H_{m−1}, H_m / σ,     b / σ + H_m ⋯ H₁ f(ū) / σ,

which predict σ · (H_m ⋯ H₁ f(u − ū) / σ + bias). One rate then suits every layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply, slope
from onnx_lowrank.factorise.chain import Chain, features
from onnx_lowrank.factorise.moments import root
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.workers import product

Array = NDArray[Any]

COVARIANCE_ROWS = 4_000
"""The number of rows from which C is estimated, about."""


@dataclass(frozen=True)
class Coordinates:
    """The change of coordinates for one layer.

    Attributes
    ----------
    count
        s, the number of columns.
    mean
        ū, [q], float32.
    root
        L, [q, q].
    inverse
        L⁻¹, [q, q], float32.
    scale
        σ.
    """

    count: int
    mean: Array
    root: Array
    inverse: Array
    scale: np.float32

    @classmethod
    def of(cls, rows: Rows, activation: Activation | None) -> "Coordinates":
        """Estimate the coordinates from rows whose regressors are columns [n, s, q]."""
        inputs, targets = rows.regressors, rows.targets
        some = inputs[:: max(1, len(inputs) // COVARIANCE_ROWS)].reshape(-1, inputs.shape[2])
        mean = some.mean(axis=0, dtype=np.float64).astype(np.float32)
        # Centred before the product: squares of large means would leave nothing of a small variance in float32.
        some = some - mean
        L = root((some.T @ some).astype(np.float64) / len(some))
        inverse = scipy.linalg.solve_triangular(L, np.eye(len(L)), lower=True).astype(np.float32)
        r = apply(activation, targets[:: max(1, len(targets) // COVARIANCE_ROWS)])
        scale = np.float32(np.sqrt(np.mean(np.square(r, dtype=np.float64))) or 1.0)
        return cls(inputs.shape[1], mean, L, inverse, scale)

    def inward(self, chain: Chain) -> Chain:
        """Return the factors in these coordinates, float32, of a chain in the original ones."""
        rest = [matrix.astype(np.float32) for matrix in chain.rest]
        rest[-1] = rest[-1] / self.scale
        bias = chain.bias / self.scale + self._mean_response(chain.first, chain.taps, rest)
        taps = None if chain.taps is None else chain.taps.astype(np.float32)
        return Chain((chain.first @ self.root).astype(np.float32), tuple(rest), bias.astype(np.float32), taps)

    def outward(self, state: Chain) -> Chain:
        """Return the chain in the original coordinates, float64, of factors in these ones."""
        first = (state.first @ self.inverse).astype(np.float64)
        taps = None if state.taps is None else state.taps.astype(np.float64)
        rest = [matrix.astype(np.float64) for matrix in state.rest]
        bias = state.bias - self._mean_response(first, taps, rest)
        rest[-1] = rest[-1] * float(self.scale)
        return Chain(first, tuple(rest), bias * float(self.scale), taps)

    def _mean_response(self, first: Array, taps: Array | None, rest: Sequence[Array]) -> Array:
        """Return H_m ⋯ H₁ f(ū), [d]: what the mean of the columns adds to every response."""
        column = first @ self.mean
        response = np.tile(column, self.count) if taps is None else column * taps.sum(axis=0)
        for matrix in rest:
            response = matrix @ response
        return response


@dataclass(frozen=True)
class Objective:
    """Half the mean squared error behind the activation, in units of σ: Σ ‖r(y) − r(ŷ + ŝ)‖² / (2 n σ²).

    Attributes
    ----------
    rows
        The samples, with columns [n, s, q] as regressors.
    activation
        r, or None for the identity.
    coordinates
        The coordinates of the factors.
    """

    rows: Rows
    activation: Activation | None
    coordinates: Coordinates

    def gradient(self, state: Chain, taken: NDArray[np.intp]) -> Chain:
        """Return the derivatives with respect to the factors, over the rows with the numbers ``taken``.

        Parameters
        ----------
        state
            The factors in ``coordinates``, float32.
        taken
            The n rows of a mini-batch.
        """
        scale, A, taps = self.coordinates.scale, state.first, state.taps
        inputs = self.rows.regressors[taken]
        inputs -= self.coordinates.mean
        n = len(inputs)
        first = A @ self.coordinates.inverse
        values = [features(inputs, first, taps)]
        for matrix in state.rest:
            values.append(product(values[-1], matrix.T))
        response = (values.pop() + state.bias) * scale
        if self.rows.shortcut is not None:
            response += self.rows.shortcut[taken]
        back = apply(self.activation, response) - apply(self.activation, self.rows.targets[taken])
        back *= slope(self.activation, response) / (scale * np.float32(n))
        bias = back.sum(axis=0)
        rest = []
        for matrix, value in zip(reversed(state.rest), reversed(values), strict=True):
            rest.append(product(back.T, value))
            back = product(back, matrix)
        if taps is None:
            columns = inputs.reshape(-1, inputs.shape[2])
            first_gradient, taps_gradient = product(back.reshape(len(columns), len(A)).T, columns), None
        else:  # the derivative with respect to the product of V and S, [r, s, q], first
            slopes = product(back.T, inputs.reshape(n, -1)).reshape(len(A), *inputs.shape[1:])
            taps_gradient = np.einsum("jxi,ji->xj", slopes, first)
            first_gradient = np.einsum("jxi,xj->ji", slopes, taps)
        return Chain(first_gradient @ self.coordinates.inverse.T, tuple(reversed(rest)), bias, taps_gradient)
