"""The best low-rank map for one layer: solved on some samples, judged on others (§2.3, §2.4).

Targets Y are the original network's responses, regressors X the same layer's responses in the network approximated so
far (asymmetric) or in the original (symmetric). Three things are chosen by the judges, samples that take no part in
the solution, by their squared error behind the activation, Σ (r(y) − r(ŷ))²:

* the ridge, which shrinks the regression towards the map that the symmetric problem has, so that few samples give the
  symmetric answer rather than a wild one;
* whether the nonlinear alternation (relax r(ŷ) ≈ r(y) to an auxiliary z, alternate the z-step and the regression,
  λ from small to large) beats its linear start, and
* after how many iterations to stop it.

The winner is then solved again on all samples with the choices fixed.

An iteration costs two matrix products over the rows. Nothing is factorised over the rows in it: the regressors are
whitened once per ridge, and the subspace is carried from one iteration to the next by one step of orthogonal
iteration, V ← orth(C CᵀV).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise import activations
from onnx_lowrank.factorise.regression import LowRankMap, Regression, cross_moment, leading_subspace

Array = NDArray[Any]

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried strengths of the shrinkage, in units of the regressors' mean variance; infinity is tried too."""

SCHEDULE = (0.1,) * 4 + (1.0,) * 4
"""λ of the iterations: early ones move far, late ones fit the true objective."""


@dataclass(frozen=True)
class Rows:
    """The samples of one layer.

    Attributes
    ----------
    regressors
        X, [n, p], float32.
    targets
        Y, [n, d], float32: the original's responses before the activation.
    judges
        [n], bool: rows that judge and take no part in the solution.
    """

    regressors: Array
    targets: Array
    judges: NDArray[np.bool_]


@dataclass(frozen=True)
class Fit:
    """The chosen map and what the judges said.

    ``error_linear`` and ``error_nonlinear`` are Σ(r(y) − r(ŷ))² / Σ r(y)² over the judging rows, of the best linear
    and the best nonlinear candidate (None where none was tried); ``ridge`` is infinite where the symmetric map won;
    ``iterations`` is 0 for a linear winner.
    """

    map: LowRankMap
    error_linear: float
    error_nonlinear: float | None
    ridge: float
    iterations: int

    @property
    def description(self) -> str:
        """Which candidate won, in a few words."""
        if np.isinf(self.ridge):
            return "the symmetric solution: too few samples to do better"
        kind = f"nonlinear, {self.iterations} iterations" if self.iterations else "linear"
        return f"{kind}, ridge {self.ridge:g}"


def fit(rows: Rows, rank: int, activation: str | None, *, nonlinear: bool) -> Fit:
    """Solve one layer.

    Parameters
    ----------
    rows
        Samples; at least one row must judge and one must not.
    rank
        r, between 1 and d.
    activation
        What follows the layer; one of ``activations.NONLINEAR`` or anything else for a linear solution.
    nonlinear
        Whether to try the alternation.
    """
    fitting = _Problem(rows.regressors[~rows.judges], rows.targets[~rows.judges], rank, activation)
    judge = _Judge(rows.regressors[rows.judges], rows.targets[rows.judges], activation)

    linear = {ridge: judge(fitting.linear(ridge)) for ridge in (*RIDGES, np.inf)}
    ridge = min(linear, key=linear.__getitem__)
    error_linear = linear[ridge]
    error_nonlinear, iterations = None, 0
    if nonlinear and activation in activations.NONLINEAR:
        # The auxiliary z follow the predictions, which asks for a little more shrinkage than the targets did.
        start = ridge if np.isfinite(ridge) else RIDGES[-1]
        stronger = [r for r in RIDGES if r > start][:1]
        errors = {
            (r, i): judge(candidate)
            for r in (start, *stronger)
            for i, candidate in enumerate(fitting.alternate(r, len(SCHEDULE)), 1)
        }
        best = min(errors, key=errors.__getitem__)
        error_nonlinear = errors[best]
        if error_nonlinear < error_linear:
            ridge, iterations = best

    everything = _Problem(rows.regressors, rows.targets, rank, activation)
    if iterations:
        *_, solution = everything.alternate(ridge, iterations)
    else:
        solution = everything.linear(ridge)
    return Fit(solution, error_linear, error_nonlinear, float(ridge), iterations)


class _Judge:
    """The relative error behind the activation on fixed rows."""

    def __init__(self, X: Array, Y: Array, activation: str | None) -> None:
        self._X, self._activation = X, activation
        self._target = activations.apply(activation, Y)
        # All-zero targets (a dead layer) have no relative error; the absolute one then ranks the candidates.
        self._scale = float(np.square(self._target, dtype=np.float64).sum()) or 1.0

    def __call__(self, candidate: LowRankMap) -> float:
        difference = activations.apply(self._activation, candidate(self._X)) - self._target
        return float(np.square(difference).sum(dtype=np.float64)) / self._scale


class _Problem:
    """The rows of one solution, with the moments that every candidate shares."""

    def __init__(self, X: Array, Y: Array, rank: int, activation: str | None) -> None:
        self._x_mean = X.mean(axis=0, dtype=np.float64)
        self._y_mean = Y.mean(axis=0, dtype=np.float64)
        self._X = X - self._x_mean.astype(X.dtype)
        self._Y, self._rank, self._activation = Y, rank, activation
        self._gram = cross_moment(self._X, self._X)
        self._cross = cross_moment(Y, self._X)
        Yc = Y - self._y_mean.astype(Y.dtype)
        U = leading_subspace(cross_moment(Yc, Yc), rank)
        # The symmetric solution (§2.2): the projection on the leading principal components of the responses.
        self._symmetric = LowRankMap(U, U.T, self._y_mean - U @ (U.T @ self._x_mean))

    def _regression(self, ridge: float) -> Regression:
        return Regression(self._X, self._x_mean, self._gram, ridge, self._symmetric.left @ self._symmetric.right)

    def linear(self, ridge: float) -> LowRankMap:
        """The linear solution; the symmetric map with the bias of these rows for an infinite ridge."""
        if np.isinf(ridge):
            return self._symmetric
        regression = self._regression(ridge)
        C = regression.whitened(self._cross)
        return regression.map(C, leading_subspace(C, self._rank), self._y_mean)

    def alternate(self, ridge: float, iterations: int) -> Iterator[LowRankMap]:
        """The states of the nonlinear alternation after every iteration, from the linear solution on."""
        assert self._activation is not None
        regression = self._regression(ridge)
        C = regression.whitened(self._cross)
        V = leading_subspace(C, self._rank)
        target = activations.apply(self._activation, self._Y)
        state = regression.map(C, V, self._y_mean)
        offset = (state.left @ (state.right @ self._x_mean)).astype(self._X.dtype)
        for weight in SCHEDULE[:iterations]:
            prediction = state(self._X)
            prediction += offset  # the rows are centred, the map is not
            Z = activations.z_step(self._activation, target, prediction, weight)
            C = regression.whitened(regression.cross(Z))
            V = np.linalg.qr(C @ (C.T @ V))[0]
            state = regression.map(C, V, Z.mean(axis=0, dtype=np.float64))
            offset = (state.left @ (state.right @ self._x_mean)).astype(self._X.dtype)
            yield state
