"""The best low-rank map for one layer: solved on some samples, judged on others (§2.3, §2.4).

Targets Y are the original network's responses, regressors X the same layer's responses in the network approximated so
far (asymmetric) or in the original (symmetric). Three things are chosen by the judges, samples that take no part in
the solution, by their squared error behind the activation, Σ (r(y) − r(ŷ))²:

* the ridge, which shrinks the regression towards the map that the symmetric problem has, so that few samples give the
  symmetric answer rather than a wild one;
* whether the nonlinear alternation (relax r(ŷ) ≈ r(y) to an auxiliary z, alternate the z-step and the regression,
  λ from small to large) beats its linear start, and
* after how many iterations to stop it.

Where a shortcut s joins the response before the activation, in a residual block, targets are the sums y + s. With the
shortcut ŝ of the network approximated so far, r(ŷ + ŝ) is to be near r(y + s): the linear target is y + s − ŝ, and the
z-step runs on ŷ + ŝ, so the solution undoes what error has come along the shortcut, too.

The winner is then solved again on all samples with the choices fixed; an alternation goes on from where it stopped.

An iteration costs two matrix products over the rows. Nothing is factorised over the rows in it: the regressors are
whitened once per ridge, and the subspace is carried from one iteration to the next by one step of orthogonal
iteration, V ← orth(C CᵀV).
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply
from onnx_lowrank.factorise.moments import BLOCK, Moments
from onnx_lowrank.factorise.regression import LowRankMap, Regression, leading_subspace
from onnx_lowrank.factorise.rows import Rows

Array = NDArray[Any]

EXACT = 1e-12
"""A relative error, squared as all are, that single precision alone makes: to go on would only follow the noise."""

RIDGES = (np.inf, 10.0, 1.0, 1e-1, 1e-2, 1e-3)
"""Strengths of the shrinkage, in units of the regressors' mean variance; the first one is the symmetric map itself."""

SCHEDULE = (0.1,) * 4 + (1.0,) * 4
"""λ of the iterations: early ones move far, late ones fit the true objective."""

PROBE = 1
"""Iterations that show whether a ridge is better than its neighbour."""

LAST = 2
"""Iterations on all samples, from the winner on."""


@dataclass(frozen=True)
class Fit:
    """The chosen map and what the judges said.

    ``map`` is solved on all samples, ``judged`` is the same candidate as the judges saw it, without their rows;
    ``error_linear`` and ``error_nonlinear`` are Σ(r(y) − r(ŷ))² / Σ r(y)² over the judging rows, of the best linear
    and the best nonlinear candidate (None where none was tried); ``ridge`` is infinite where the symmetric map won;
    ``iterations`` is 0 for a linear winner; ``epochs`` counts the passes over the rows that refined all factors.
    """

    map: LowRankMap
    judged: LowRankMap
    error_linear: float
    error_nonlinear: float | None
    ridge: float
    iterations: int
    epochs: float = 0.0

    @property
    def description(self) -> str:
        """Which candidate won, in a few words."""
        refined = f", refined in {self.epochs:g} epochs" if self.epochs else ""
        if np.isinf(self.ridge):
            alone = ": it is exact" if self.error_linear <= EXACT else ": too few samples to do better"
            return "the symmetric solution" + (refined or alone)
        kind = f"nonlinear, {self.iterations} iterations" if self.iterations else "linear"
        return f"{kind}, ridge {self.ridge:g}{refined}"


def fit(rows: Rows, prior: Array, rank: int, activation: Activation | None, *, nonlinear: bool) -> Fit:
    """Solve one layer; ``nonlinear`` says whether to try the alternation, the rest is as for ``Fitter``."""
    fitter = Fitter(rows, prior, rank, activation)
    return fitter.nonlinear() if nonlinear else fitter.linear()


class Fitter:
    """The solutions of one layer, which share their preparations.

    Parameters
    ----------
    rows
        Samples; at least one.
    prior
        H₀, [d, p]: the map that the weights alone give.
    rank
        r, between 1 and d.
    activation
        What follows the layer; None for a linear solution.
    gram
        W Wᵀ, [d, d], where regressors are responses and so few that it has to stand in for more of them; else None.
    """

    def __init__(
        self, rows: Rows, prior: Array, rank: int, activation: Activation | None, gram: Array | None = None
    ) -> None:
        # Solving rows first, judging rows last: every part is then a slice, and nothing is copied again.
        order = np.argsort(rows.judges, kind="stable")
        X, Y = rows.regressors[order], rows.targets[order]
        # Large means would eat the float32 precision of the products; the bias takes the shift back at the end.
        self._shift = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        X -= self._shift
        S = None if rows.shortcut is None else rows.shortcut[order]
        first_judge = len(order) - np.count_nonzero(rows.judges)
        # Where there are too few rows to divide, the same ones solve and judge.
        solving = slice(0, first_judge or None)
        judging = slice(first_judge if first_judge < len(order) else 0, None)
        target = apply(activation, Y)
        if S is not None:  # what is left for the layer to answer
            Y = Y - S
        moments = Moments.of(X[solving], Y[solving])
        if gram is not None:
            moments = moments.with_weights(gram)
        self._curved = activation is not None
        self._judge = _Judge(X[judging], target[judging], _part(S, judging), activation)
        self._problem = _Problem(X[solving], target[solving], _part(S, solving), moments, prior, rank, activation)
        self._everything = self._problem
        if 0 < first_judge < len(order):
            moments += Moments.of(X[judging], Y[judging])
            self._everything = _Problem(X, target, S, moments, prior, rank, activation)
        self._ridge, self._error = _best_ridge(self._problem, self._judge)

    def linear(self) -> Fit:
        """The best linear solution."""
        judged, solution = self._problem.linear(self._ridge), self._everything.linear(self._ridge)
        return Fit(solution.shifted(self._shift), judged.shifted(self._shift), self._error, None, self._ridge, 0)

    def nonlinear(self) -> Fit:
        """The best solution of the alternation, or the linear one where it is no better."""
        if not self._curved:
            return self.linear()
        ridge, error, steps, state = _best_alternation(self._problem, self._judge, self._ridge)
        if error >= self._error:
            return replace(self.linear(), error_nonlinear=error)
        *_, solution = self._everything.alternate(ridge, SCHEDULE[steps - 1 : steps] * LAST, state)
        return Fit(solution.shifted(self._shift), state.shifted(self._shift), self._error, error, ridge, steps)


def _part(rows: Array | None, part: slice) -> Array | None:
    return None if rows is None else rows[part]


def _best_ridge(problem: "_Problem", judge: "_Judge") -> tuple[float, float]:
    """(ridge, error) of the best linear solution, from the symmetric map on: weaker ridges until they are worse."""
    best = RIDGES[0], judge(problem.linear(RIDGES[0]))
    for ridge in RIDGES[1:]:
        if best[1] <= EXACT:
            break
        error = judge(problem.linear(ridge))
        if error > best[1]:
            break
        best = ridge, error
    return best


def _best_alternation(problem: "_Problem", judge: "_Judge", start: float) -> tuple[float, float, int, LowRankMap]:
    """(ridge, error, iterations, map) of the best nonlinear solution.

    The auxiliary z follow the predictions, which shrinks the solution, too, so the ridge that suits them is the linear
    solution's or a weaker one: weaker ones are tried for a few iterations as long as they are better, and the best goes
    on to the end.
    """
    runs: dict[int, tuple[Iterator[LowRankMap], list[tuple[float, LowRankMap]]]] = {}

    def probe(i: int) -> float:
        if i not in runs:
            states = problem.alternate(RIDGES[i], SCHEDULE)
            runs[i] = states, [(judge(state), state) for state in itertools.islice(states, PROBE)]
        return min(error for error, _ in runs[i][1])

    here = max(1, RIDGES.index(start))
    while here + 1 < len(RIDGES) and probe(here + 1) < probe(here):
        here += 1
    probe(here)
    states, judged = runs[here]
    for state in states:
        judged.append((judge(state), state))
        if judged[-1][0] > judged[-2][0]:
            break  # from here on it would fit the noise
    least = min(range(len(judged)), key=lambda i: judged[i][0])
    return RIDGES[here], judged[least][0], least + 1, judged[least][1]


class _Judge:
    """The relative error behind the activation on fixed rows."""

    def __init__(self, X: Array, target: Array, shortcut: Array | None, activation: Activation | None) -> None:
        self._X, self._target, self._shortcut, self._activation = X, target, shortcut, activation
        # All-zero targets (a dead layer) have no relative error; the absolute one then ranks the candidates.
        self._scale = float(np.vdot(target, target)) or 1.0

    def __call__(self, candidate: LowRankMap) -> float:
        total = 0.0
        for start in range(0, len(self._X), BLOCK):
            block = slice(start, start + BLOCK)
            difference = candidate(self._X[block])
            if self._shortcut is not None:
                difference += self._shortcut[block]
            difference = apply(self._activation, difference)
            difference -= self._target[block]
            total += float(np.vdot(difference, difference))
        return total / self._scale


class _Problem:
    """Rows to solve on, with the moments that every candidate shares."""

    def __init__(
        self,
        X: Array,
        target: Array,
        shortcut: Array | None,
        moments: Moments,
        prior: Array,
        rank: int,
        activation: Activation | None,
    ) -> None:
        self._X, self._target, self._shortcut = X, target, shortcut
        self._rank, self._activation = rank, activation
        self._x_mean, self._y_mean = moments.x_mean, moments.y_mean
        self._gram, self._cross, self._unseen = moments.xx, moments.yx, moments.unseen
        U = leading_subspace(moments.yy, rank)
        # The symmetric solution (§2.2): the projection on the leading principal components of the responses.
        right = U.T @ prior
        self._symmetric = LowRankMap(U, right, self._y_mean - U @ (right @ self._x_mean))
        self._linear: dict[float, tuple[Regression, LowRankMap]] = {}

    def linear(self, ridge: float) -> LowRankMap:
        """The linear solution; the symmetric map with the bias of these rows for an infinite ridge."""
        return self._symmetric if np.isinf(ridge) else self._solved(ridge)[1]

    def _solved(self, ridge: float) -> tuple[Regression, LowRankMap]:
        """The whitened regressors and the linear solution of a ridge, computed once."""
        if ridge not in self._linear:
            prior = self._symmetric.left @ self._symmetric.right
            regression = Regression(self._x_mean, self._gram, ridge, prior)
            C = regression.whitened(self._cross)
            V = leading_subspace(C @ C.T, self._rank)
            self._linear[ridge] = regression, regression.map(C, V, self._y_mean)
        return self._linear[ridge]

    def alternate(
        self, ridge: float, weights: Sequence[float], start: LowRankMap | None = None
    ) -> Iterator[LowRankMap]:
        """The states of the nonlinear alternation after every iteration, with its weights λ.

        It begins at ``start``, or at the linear solution.
        """
        regression, linear = self._solved(ridge)
        state = start or linear
        for weight in weights:
            cross, z_mean = self._z_moments(state, weight)
            C, V = regression.whitened(cross), state.left
            if self._rank < len(V):  # else V spans everything already
                V = np.linalg.qr(C @ (C.T @ V))[0]
            state = regression.map(C, V, z_mean)
            yield state

    def _z_moments(self, state: LowRankMap, weight: float) -> tuple[Array, Array]:
        """((Z − z̄)ᵀ(X − x̄), z̄) after a z-step at the predictions of the current map.

        Blocks of rows go through both matrix products and the z-step while they are in the processor's cache.
        """
        assert self._activation is not None
        n, cross, total = len(self._X), np.zeros_like(self._cross), np.zeros(len(self._y_mean))
        for start in range(0, n, BLOCK):
            block = slice(start, start + BLOCK)
            X, predicted = self._X[block], state(self._X[block])
            if self._shortcut is not None:
                predicted += self._shortcut[block]
            Z = self._activation.z_step(self._target[block], predicted, weight)
            if self._shortcut is not None:
                Z -= self._shortcut[block]
            cross += Z.T @ X
            total += Z.sum(axis=0)
        return cross - np.outer(total, self._x_mean) + self._unseen, total / n
