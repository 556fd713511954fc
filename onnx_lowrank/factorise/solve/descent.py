"""All factors of a chain refined together, by descent on the nonlinear objective itself (§2.3, eq. 7; §2.4, eq. 11).

The regression fixes the first factor V (the k×1 kernel of the spatial forms) and solves for what follows. Here every
factor moves:

    min over V, H₁..H_m, b   Σ ‖r(y) − r(H_m ⋯ H₁ f + b)‖²,     f = (V u_1, …, V u_s),

u_1..u_s being the s columns that a form sees in a patch. In the CP form these are its pixels, and the depthwise kernel
S adds them up, f = Σ_x S_x ∘ V u_x; S moves, too. There is no closed form, but the gradient costs about two
evaluations, and the regression is an excellent start. The steps are Adam's (Kingma & Ba, ICLR 2015) on random
mini-batches, with a rate that falls linearly to zero. V moves in whitened coordinates: with the columns' covariance
C = L Lᵀ and V = A L⁻¹, the steps are taken on A, because raw columns are so correlated that V would hardly move.

Unlike a convex problem with a ridge, this one would fit the noise of few samples. Samples that take no part in the
steps judge it several times on the way, the best state so far is the result, and the start is a state like any other:
the refinement never loses on them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply, slope
from onnx_lowrank.factorise.chain import Chain, features
from onnx_lowrank.factorise.moments import BLOCK, root
from onnx_lowrank.factorise.rows import Rows

Array = NDArray[Any]

EPOCHS = 2
"""Passes over the rows, if the judges let them all happen."""

LOOKS = 2
"""How often the judges look at the state in each of them."""

BATCH = 512
"""Rows of a step."""

RATE, HIGHEST_RATE = 3.0, 1e-2
"""Size of a first step, in units of a factor's mean absolute entry: the first over the number of terms in a response,
since so many small changes add up there, and the most that it may be."""

TAPPED_RATE = 0.4
"""The first with taps: a small change of one of them changes a whole feature."""

MOST_WORK = 6e10
"""Multiply-accumulates of one pass beyond which it is not begun, as in most forms of a layer of 512 filters. In the CP
form of VGG-16's two passes took 7 s there to come as far as the alternation in 2 s; in its spatial form at 4× the error
of the whole network was 0.0144 without and 0.0150 with them (120 photos)."""

WORTH = 0.01
"""The share of the error that the judges must see gone at their first look. Where it is less, the samples have no more
to tell, and what the judging rows themselves are worth to the regression outweighs it."""

LAST_RATE = 0.3
"""The share of the rate for the last pass, in which the judging rows take part."""

MEAN_MEMORY, SQUARE_MEMORY = 0.9, 0.99
"""Adam's β₁ and β₂; a short memory of the squares, since there are only a few hundred steps."""

COVARIANCE_ROWS = 4_000
"""Rows from which C is estimated."""


@dataclass(frozen=True)
class Refined:
    """The best chain, its relative error on the judging rows, and the passes over the other rows that led to it."""

    chain: Chain
    error: float
    epochs: float


def refine(start: Chain, rows: Rows, activation: Activation | None, seed: int = 0) -> Refined:
    """Move all factors of a chain downhill as long as the judges approve.

    Parameters
    ----------
    start
        Where to begin.
    rows
        Samples, with the form's inputs u, [n, s, q], for regressors. Without rows that judge and rows that do not, or
        where a pass would take too long (``MOST_WORK``), the start is returned.
    activation
        What follows the layer.
    seed
        Of the order of the rows.
    """
    solving, judging = np.flatnonzero(~rows.judges), np.flatnonzero(rows.judges)
    judge = _Judge(rows, judging, activation)
    best = Refined(start, judge(start), 0.0)
    if len(solving) < LOOKS or not len(judging) or _work(start, len(solving), rows.regressors.shape[1]) > MOST_WORK:
        return best
    rate = _rate(start)
    steps = _Steps(start, rows, activation)
    size = min(BATCH, len(solving) // LOOKS)
    per_look = len(solving) // (LOOKS * size)
    total = EPOCHS * LOOKS * per_look
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(solving) for _ in range(EPOCHS)])
    for look in range(EPOCHS * LOOKS):
        for step in range(look * per_look, (look + 1) * per_look):
            steps.take(order[step * size : (step + 1) * size], rate * (1 - step / total))
        state = steps.chain
        error = judge(state)
        if not error < best.error * (1 if best.epochs else 1 - WORTH):  # so that a NaN ends it, too
            break
        best = Refined(state, error, (look + 1) / LOOKS)
    return best


def finish(refined: Refined, rows: Rows, activation: Activation | None, seed: int = 0) -> Chain:
    """A last pass at a small and falling rate: the judges have done their work, and their rows take part.

    With every judging row comes another one, so that the pass stays short and the others are not forgotten.
    """
    steps = _Steps(refined.chain, rows, activation)
    generator = np.random.default_rng([seed, 1])
    solving, judging = np.flatnonzero(~rows.judges), np.flatnonzero(rows.judges)
    others = generator.choice(solving, min(len(solving), len(judging)), replace=False)
    order = generator.permutation(np.concatenate([judging, others]))
    total = max(1, len(order) // BATCH)
    for step in range(total):
        steps.take(order[step * BATCH : (step + 1) * BATCH], LAST_RATE * _rate(refined.chain) * (1 - step / total))
    return steps.chain


def _rate(start: Chain) -> float:
    rate = RATE if start.taps is None else TAPPED_RATE
    return min(HIGHEST_RATE, rate / max(len(matrix.T) for matrix in start.rest))


def _work(start: Chain, rows: int, columns: int) -> float:
    """Multiply-accumulates of a pass over the rows, forwards and backwards."""
    return 3.0 * rows * (columns * start.first.size + sum(matrix.size for matrix in start.rest))


class _Judge:
    """The relative error behind the activation on the judging rows."""

    def __init__(self, rows: Rows, judging: NDArray[np.intp], activation: Activation | None) -> None:
        self._rows, self._judging, self._activation = rows, judging, activation
        self._target = apply(activation, rows.targets[judging])
        # All-zero targets (a dead layer) have no relative error; the absolute one then ranks the states.
        self._scale = float(np.vdot(self._target, self._target)) or 1.0

    def __call__(self, chain: Chain) -> float:
        total = 0.0
        for i in range(0, len(self._judging), BLOCK):
            block = self._judging[i : i + BLOCK]
            response = chain(self._rows.regressors[block])
            if self._rows.shortcut is not None:
                response += self._rows.shortcut[block]
            difference = apply(self._activation, response) - self._target[i : i + BLOCK]
            total += float(np.vdot(difference, difference))
        return total / self._scale


class _Steps:
    """Adam's state, and the factors on their way."""

    def __init__(self, start: Chain, rows: Rows, activation: Activation | None) -> None:
        self._rows, self._activation = rows, activation
        inputs, targets = rows.regressors, rows.targets
        some = inputs[:: max(1, len(inputs) // COVARIANCE_ROWS)].reshape(-1, inputs.shape[2])
        mean = some.mean(axis=0, dtype=np.float64).astype(np.float32)
        # Centred before the product: squares of large means would leave nothing of a small variance in float32.
        some = some - mean
        L = root((some.T @ some).astype(np.float64) / len(some))
        self._unwhiten = scipy.linalg.solve_triangular(L, np.eye(len(L)), lower=True).astype(np.float32)  # L⁻¹
        # Columns and targets are centred and scaled, so that the same rate suits every layer.
        self._mean = mean
        r = apply(activation, targets[:: max(1, len(targets) // COVARIANCE_ROWS)])
        self._scale = np.float32(np.sqrt(np.mean(np.square(r, dtype=np.float64))) or 1.0)
        rest = [matrix.astype(np.float32) for matrix in start.rest]
        rest[-1] = rest[-1] / self._scale
        bias = start.bias / self._scale + _fixed(start.first @ mean, start.taps, rest, inputs.shape[1])
        self._factors = [(start.first @ L).astype(np.float32), *rest, bias.astype(np.float32)]
        self._tapped = start.taps is not None
        if start.taps is not None:
            self._factors.insert(1, start.taps.astype(np.float32))
        self._units = [np.float32(np.abs(factor).mean()) for factor in self._factors]
        # A bias of nothing but zeros has no size of its own; a response has size 1 by now.
        self._units[-1] = max(self._units[-1], np.float32(0.1))
        self._means = [np.zeros_like(factor) for factor in self._factors]
        self._squares = [np.zeros_like(factor) for factor in self._factors]
        self._count = 0

    @property
    def chain(self) -> Chain:
        """The current state, as a chain of the uncentred, unscaled inputs."""
        first = (self._factors[0] @ self._unwhiten).astype(np.float64)
        others = [factor.astype(np.float64) for factor in self._factors[1:-1]]
        taps, rest = (others[0], others[1:]) if self._tapped else (None, others)
        bias = self._factors[-1] - _fixed(first @ self._mean, taps, rest, self._rows.regressors.shape[1])
        rest[-1] = rest[-1] * float(self._scale)
        return Chain(first, tuple(rest), bias * float(self._scale), taps)

    def take(self, rows: NDArray[np.intp], rate: float) -> None:
        """One step on these rows."""
        self._move(self.gradients(rows), rate)

    def gradients(self, rows: NDArray[np.intp]) -> list[Array]:
        """Of half the mean squared error of these rows, in units of the scale, with respect to every factor."""
        A, *rest, bias = self._factors
        taps = rest.pop(0) if self._tapped else None
        inputs = self._rows.regressors[rows]
        inputs -= self._mean
        n = len(inputs)
        first = A @ self._unwhiten
        made = [features(inputs, first, taps)]
        for matrix in rest:
            made.append(made[-1] @ matrix.T)
        response = (made.pop() + bias) * self._scale
        if self._rows.shortcut is not None:
            response += self._rows.shortcut[rows]
        back = apply(self._activation, response) - apply(self._activation, self._rows.targets[rows])
        back *= slope(self._activation, response) / (self._scale * np.float32(n))
        gradients = [back.sum(axis=0)]
        for matrix, value in zip(reversed(rest), reversed(made), strict=True):
            gradients.append(back.T @ value)
            back = back @ matrix
        if taps is None:
            columns = inputs.reshape(-1, inputs.shape[2])
            of_first = back.reshape(len(columns), len(A)).T @ columns
        else:
            of_product = (back.T @ inputs.reshape(n, -1)).reshape(len(A), *inputs.shape[1:])
            gradients.append(np.einsum("jxi,ji->xj", of_product, first))
            of_first = np.einsum("jxi,xj->ji", of_product, taps)
        gradients.append(of_first @ self._unwhiten.T)
        return gradients[::-1]

    def _move(self, gradients: list[Array], rate: float) -> None:
        self._count += 1
        first, second = 1 - MEAN_MEMORY**self._count, 1 - SQUARE_MEMORY**self._count
        for i, gradient in enumerate(gradients):
            self._means[i] += np.float32(1 - MEAN_MEMORY) * (gradient - self._means[i])
            self._squares[i] += np.float32(1 - SQUARE_MEMORY) * (gradient * gradient - self._squares[i])
            size = np.sqrt(self._squares[i] / np.float32(second)) + np.float32(1e-12)
            self._factors[i] = self._factors[i] - np.float32(rate / first) * self._units[i] * self._means[i] / size


def _fixed(first_of_mean: Array, taps: Array | None, rest: list[Array], columns: int) -> Array:
    """What the mean of the columns adds to every response, [d]."""
    fixed = np.tile(first_of_mean, columns) if taps is None else first_of_mean * taps.sum(axis=0)
    for matrix in rest:
        fixed = matrix @ fixed
    return fixed
