"""The regression of one layer on given rows: the linear solution for any ridge, and the nonlinear alternation.

The linear problem is that of ``regression`` with the responses as z and the symmetric solution as the prior. The
nonlinear one (§2.3, eq. 7) relaxes r(ŷ) ≈ r(y) to auxiliary responses z,

    min over z, B, b   Σ ‖r(y) − r(z)‖² + λ ‖z − Bx − b‖²,

and alternates the z-step (see ``activations``) with the regression. Nothing is factorised over the rows in an
iteration: the regressors are whitened once per ridge, and the subspace is carried from one iteration to the next by one
step of orthogonal iteration, V ← orth(C CᵀV). An iteration then costs two matrix products over the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.factorise.moments import BLOCK, Moments
from onnx_lowrank.factorise.regression import LowRankMap, Regression, leading_subspace
from onnx_lowrank.factorise.workers import in_order

Array = NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Rows of one layer, whose targets are taken behind the activation.

    Attributes
    ----------
    regressors
        X, [n, p], float32, with a mean near zero.
    target
        r(y), [n, d], float32.
    shortcut
        ŝ, [n, d], float32; None where none joins.
    """

    regressors: Array
    target: Array
    shortcut: Array | None

    def part(self, rows: slice) -> "Samples":
        """View some of the rows."""
        shortcut = None if self.shortcut is None else self.shortcut[rows]
        return Samples(self.regressors[rows], self.target[rows], shortcut)

    def blocks(self) -> Iterator["Samples"]:
        """View all rows in blocks that fit the processor's cache."""
        return (self.part(slice(start, start + BLOCK)) for start in range(0, len(self.regressors), BLOCK))


class Problem:
    """Rows to solve on, with the moments that all candidates share.

    Parameters
    ----------
    samples
        The rows.
    moments
        The moments of their regressors and of the linear targets y − ŝ.
    prior
        H₀, [d, p]: the map that the weights alone give.
    rank
        r.
    activation
        The function behind the layer; None where only linear solutions are asked for.
    """

    def __init__(
        self, samples: Samples, moments: Moments, prior: Array, rank: int, activation: Activation | None
    ) -> None:
        self._samples, self._moments = samples, moments
        self._rank, self._activation = rank, activation
        U = leading_subspace(moments.yy, rank)
        # The symmetric solution (§2.2): the projection on the leading principal components of the responses.
        right = U.T @ prior
        self._symmetric = LowRankMap(U, right, moments.y_mean - U @ (right @ moments.x_mean))
        self._solved: dict[float, tuple[Regression, LowRankMap]] = {}

    def linear(self, ridge: float) -> LowRankMap:
        """Return the linear solution; for an infinite ridge, the symmetric map with the bias of these rows."""
        return self._symmetric if np.isinf(ridge) else self._regression(ridge)[1]

    def alternate(
        self, ridge: float, weights: Sequence[float], start: LowRankMap | None = None
    ) -> Iterator[LowRankMap]:
        """Yield the map after every iteration of the nonlinear alternation.

        Parameters
        ----------
        ridge
            The ridge, which is finite.
        weights
            λ of every iteration.
        start
            The map to begin with; None for the linear solution.
        """
        regression, linear = self._regression(ridge)
        state = start or linear
        for weight in weights:
            cross, z_mean = self._z_moments(state, weight)
            C, V = regression.whitened(cross), state.left
            if self._rank < len(V):  # else V spans everything already
                V = np.linalg.qr(C @ (C.T @ V))[0]
            state = regression.map(C, V, z_mean)
            yield state

    def _regression(self, ridge: float) -> tuple[Regression, LowRankMap]:
        """Return the whitened regressors and the linear solution of a finite ridge, which are computed once."""
        if ridge not in self._solved:
            moments, prior = self._moments, self._symmetric.left @ self._symmetric.right
            regression = Regression(moments.x_mean, moments.xx, ridge, prior)
            C = regression.whitened(moments.yx)
            V = leading_subspace(C @ C.T, self._rank)
            self._solved[ridge] = regression, regression.map(C, V, moments.y_mean)
        return self._solved[ridge]

    def _z_moments(self, state: LowRankMap, weight: float) -> tuple[Array, Array]:
        """Return (Z − z̄)ᵀ(X − x̄) [d, p] and z̄ [d] after a z-step at the predictions of a map.

        Blocks of rows go through both matrix products and the z-step while they are in the processor's cache.
        """
        moments = self._moments
        n, cross, total = len(self._samples.regressors), np.zeros_like(moments.yx), np.zeros(len(moments.y_mean))

        def sums(block: Samples) -> tuple[Array, Array]:
            assert self._activation is not None
            predicted = state(block.regressors)
            if block.shortcut is not None:
                predicted += block.shortcut
            Z = self._activation.z_step(block.target, predicted, weight)
            if block.shortcut is not None:
                Z -= block.shortcut
            return Z.T @ block.regressors, Z.sum(axis=0)

        for of_block, of_z in in_order(sums, self._samples.blocks(), 2.0 * min(n, BLOCK) * cross.size):
            cross += of_block
            total += of_z
        return cross - np.outer(total, moments.x_mean) + moments.unseen, total / n
