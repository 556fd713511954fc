"""The best low-rank map for one layer: solved on some samples, judged on others (§2.3, §2.4).

Targets Y are the original network's responses, regressors X the same layer's responses in the network approximated so
far (asymmetric) or in the original (symmetric). Three things are chosen by the judges, samples that take no part in
the solution, by their squared error behind the activation, Σ (r(y) − r(ŷ))²:

* the ridge, which shrinks the regression towards the map that the symmetric problem has, so that few samples give the
  symmetric answer rather than a wild one;
* whether the nonlinear alternation (see ``problem``), with λ from small to large, beats its linear start, and
* after how many iterations to stop it.

Where a shortcut s joins the response before the activation, in a residual block, targets are the sums y + s. With the
shortcut ŝ of the network approximated so far, r(ŷ + ŝ) is to be near r(y + s): the linear target is y + s − ŝ, and the
z-step runs on ŷ + ŝ, so the solution also undoes what error has come along the shortcut.

The winner is then solved again on all samples with the choices fixed; an alternation goes on from where it stopped.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply
from onnx_lowrank.factorise.judge import Judge
from onnx_lowrank.factorise.moments import Moments
from onnx_lowrank.factorise.regression import LowRankMap
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.fit import EXACT, Fit
from onnx_lowrank.factorise.solve.problem import Problem, Samples

Array = NDArray[Any]

RIDGES = (np.inf, 10.0, 1.0, 1e-1, 1e-2, 1e-3)
"""Strengths of the shrinkage, in units of the regressors' mean variance; the first one is the symmetric map itself."""

SCHEDULE = (0.1,) * 4 + (1.0,) * 4
"""λ of the iterations: early ones move far, late ones fit the true objective."""

PROBE = 1
"""The number of iterations that show whether a ridge is better than its neighbour."""

LAST = 2
"""The number of iterations on all samples, from the winner on."""


class Fitter:
    """The solutions of one layer, which share their preparations.

    Parameters
    ----------
    rows
        The samples, at least one.
    prior
        H₀, [d, p]: the map that the weights alone give.
    rank
        r, between 1 and d.
    activation
        The function behind the layer; None for a linear solution.
    gram
        W Wᵀ, [d, d], where regressors are responses and so few that it has to stand in for more of them; else None.
    ridges
        The strengths of the shrinkage to choose from. Where there is one, there is nothing to judge, so that it is
        best to let no row judge.
    """

    def __init__(
        self,
        rows: Rows,
        prior: Array,
        rank: int,
        activation: Activation | None,
        gram: Array | None = None,
        ridges: Sequence[float] = RIDGES,
    ) -> None:
        # Solving rows first, judging rows last: every part is then a slice, and nothing is copied again.
        order = np.argsort(rows.judges, kind="stable")
        X, Y = rows.regressors[order], rows.targets[order]
        # Large means would eat the float32 precision of the products; the bias takes the shift back at the end.
        self._shift = X.mean(axis=0, dtype=np.float64).astype(X.dtype)
        X -= self._shift
        samples = Samples(X, apply(activation, Y), None if rows.shortcut is None else rows.shortcut[order])
        first_judge = len(order) - np.count_nonzero(rows.judges)
        # Where there are too few rows to divide, the same ones solve and judge.
        solving = slice(0, first_judge or None)
        judging = slice(first_judge if first_judge < len(order) else 0, None)
        if samples.shortcut is not None:
            Y = Y - samples.shortcut
        moments = Moments.of(X[solving], Y[solving])
        if gram is not None:
            moments = moments.with_weights(gram)
        self._curved = activation is not None
        judges = samples.part(judging)
        self._judge = Judge(judges.regressors, judges.target, judges.shortcut, activation)
        self._problem = Problem(samples.part(solving), moments, prior, rank, activation)
        self._everything = self._problem
        if 0 < first_judge < len(order):
            moments += Moments.of(X[judging], Y[judging])
            self._everything = Problem(samples, moments, prior, rank, activation)
        self._ridge, self._error = _best_ridge(self._problem, self._judge, ridges)

    def linear(self) -> Fit:
        """Return the best linear solution."""
        judged, solution = self._problem.linear(self._ridge), self._everything.linear(self._ridge)
        return Fit(solution.shifted(self._shift), judged.shifted(self._shift), self._error, None, self._ridge, 0)

    def nonlinear(self) -> Fit:
        """Return the best solution of the alternation, or the linear one where it is no better."""
        if not self._curved:
            return self.linear()
        ridge, (error, iterations, state) = _best_alternation(self._problem, self._judge, self._ridge)
        if error >= self._error:
            return replace(self.linear(), error_nonlinear=error)
        weights = SCHEDULE[iterations - 1 : iterations] * LAST
        *_, solution = self._everything.alternate(ridge, weights, state)
        return Fit(solution.shifted(self._shift), state.shifted(self._shift), self._error, error, ridge, iterations)


def _best_ridge(problem: Problem, judge: Judge, ridges: Sequence[float]) -> tuple[float, float]:
    """Return the ridge and the error of the best linear solution.

    The ridges are tried in turn, from the symmetric map on, weaker and weaker, until one is worse than the last.
    """
    best = ridges[0], judge.error(problem.linear(ridges[0]))
    for ridge in ridges[1:]:
        if best[1] <= EXACT:
            break
        error = judge.error(problem.linear(ridge))
        if error > best[1]:
            break
        best = ridge, error
    return best


class _State(NamedTuple):
    """The map after some iterations, with its error on the judging rows."""

    error: float
    iterations: int
    map: LowRankMap


class _Run:
    """One alternation, judged after every iteration."""

    def __init__(self, problem: Problem, judge: Judge, ridge: float) -> None:
        self.ridge = ridge
        self._maps = enumerate(problem.alternate(ridge, SCHEDULE), 1)
        self._states = (_State(judge.error(state), number, state) for number, state in self._maps)
        self._judged = list(itertools.islice(self._states, PROBE))

    @property
    def best(self) -> _State:
        """The state with the least error so far, the first one of several."""
        return min(self._judged, key=lambda state: state.error)

    def finish(self) -> None:
        """Iterate until the error rises, from where on the iterations would fit the noise."""
        for state in self._states:
            self._judged.append(state)
            if state.error > self._judged[-2].error:
                break


def _best_alternation(problem: Problem, judge: Judge, start: float) -> tuple[float, _State]:
    """Return the ridge and the state of the best nonlinear solution.

    The auxiliary z follow the predictions, which shrinks the solution as well, so the ridge that suits the alternation
    is that of the linear solution (``start``) or a weaker one. Weaker ones are tried for a few iterations as long as
    they are better, and the best one goes on to the end.
    """
    first = max(1, RIDGES.index(start))
    run = _Run(problem, judge, RIDGES[first])
    for ridge in RIDGES[first + 1 :]:
        weaker = _Run(problem, judge, ridge)
        if not weaker.best.error < run.best.error:
            break
        run = weaker
    run.finish()
    return run.ridge, run.best
