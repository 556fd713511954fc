"""All factors of a chain refined together, by descent on the nonlinear objective itself (§2.3, eq. 7; §2.4, eq. 11).

The regression fixes the first factor V (the k×1 kernel of the spatial forms) and solves for what follows. Here every
factor moves:

    min over V, H₁..H_m, b   Σ ‖r(y) − r(H_m ⋯ H₁ f + b)‖²,     f = (V u_1, …, V u_s),

u_1..u_s being the s columns that a form sees in a patch. In the CP form these are its pixels, and the depthwise kernel
S adds them up, f = Σ_x S_x ∘ V u_x; S moves as well. There is no closed form, but the gradient costs about two
evaluations, and the regression is an excellent start. The steps are Adam's on random mini-batches, with a rate that
falls linearly to zero, in coordinates in which columns are uncorrelated (see ``coordinates``).

Unlike a convex problem with a ridge, this one would fit the noise of few samples. Samples that take no part in the
steps judge it several times on the way, the best state so far is the result, and the start is a state like any other:
the refinement never loses on them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply
from onnx_lowrank.factorise.chain import Chain
from onnx_lowrank.factorise.judge import Judge
from onnx_lowrank.factorise.rows import Rows
from onnx_lowrank.factorise.solve.adam import Adam
from onnx_lowrank.factorise.solve.coordinates import Coordinates, Objective

Batch = NDArray[np.intp]
"""The numbers of some rows."""

EPOCHS = 2
"""The number of passes over the rows, if the judges let them all happen."""

LOOKS = 2
"""The number of times that the judges look at the state in each of them."""

BATCH = 512
"""The number of rows of a step."""

RATE, HIGHEST_RATE = 3.0, 1e-2
"""The size of a first step, in units of a factor's mean absolute entry: the first over the number of terms in a
response, since so many small changes add up there, and the most that it may be."""

TAPPED_RATE = 0.4
"""``RATE`` for chains with taps: a small change of one of them changes a whole feature."""

MOST_WORK = 6e10
"""Multiply-accumulates of one pass beyond which it is not begun, as in most forms of a layer of 512 filters. In the CP
form of VGG-16's two passes took 7 s there to come as far as the alternation in 2 s; in its spatial form at 4× the error
of the whole network was 0.0144 without and 0.0150 with them (120 photos)."""

WORTH = 0.01
"""The share of the error that has to disappear before the judges' first look. Where it is less, the samples have no
more to tell, and what the judging rows themselves are worth to the regression outweighs it."""

LAST_RATE = 0.3
"""The share of the rate for the last pass, in which the judging rows take part."""


@dataclass(frozen=True)
class Refined:
    """The best state of a refinement.

    Attributes
    ----------
    chain
        Its factors.
    error
        Its relative error on the judging rows.
    epochs
        The passes over the other rows that led to it; 0 for the start.
    """

    chain: Chain
    error: float
    epochs: float


def refine(
    start: Chain, rows: Rows, activation: Activation | None, seed: int = 0, most_work: float = MOST_WORK
) -> Refined:
    """Move all factors of a chain downhill as long as the judges approve.

    Parameters
    ----------
    start
        The chain to begin with. It is returned where there are no rows that judge or too few that do not.
    rows
        The samples, with the form's columns u, [n, s, q], as regressors.
    activation
        The function behind the layer.
    seed
        Seed of the order of the rows.
    most_work
        The multiply-accumulates of a pass beyond which the start is returned.
    """
    solving, judging = np.flatnonzero(~rows.judges), np.flatnonzero(rows.judges)
    target = apply(activation, rows.targets[judging])
    judge = Judge(rows.regressors, target, rows.shortcut, activation, judging)
    best = Refined(start, judge.error(start), 0.0)
    if len(solving) < LOOKS or not len(judging) or _work(start, len(solving), rows.regressors.shape[1]) > most_work:
        return best
    rate = _rate(start)
    objective = Objective(rows, activation, Coordinates.of(rows, activation))
    state = objective.coordinates.inward(start)
    adam = Adam(state)
    batches = mini_batches(solving, seed)
    step, steps = 0, sum(map(len, batches))
    for look, before_look in enumerate(batches, 1):
        for batch in before_look:
            state = adam.step(state, objective.gradient(state, batch), rate * (1 - step / steps))
            step += 1
        chain = objective.coordinates.outward(state)
        error = judge.error(chain)
        if not error < best.error * (1 if best.epochs else 1 - WORTH):  # so that a NaN ends it as well
            break
        best = Refined(chain, error, look / LOOKS)
    return best


def mini_batches(solving: Batch, seed: int) -> list[list[Batch]]:
    """Divide ``EPOCHS`` passes over rows, each in a random order, into mini-batches of equal size.

    Parameters
    ----------
    solving
        The numbers of the rows, at least ``LOOKS`` of them.
    seed
        Seed of the orders.

    Returns
    -------
    list[list[Batch]]
        The batches before each of the judges' looks.
    """
    size = min(BATCH, len(solving) // LOOKS)
    count = len(solving) // (LOOKS * size)
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(solving) for _ in range(EPOCHS)])
    batches = [order[step * size : (step + 1) * size] for step in range(EPOCHS * LOOKS * count)]
    return [batches[look * count : (look + 1) * count] for look in range(EPOCHS * LOOKS)]


def finish(refined: Refined, rows: Rows, activation: Activation | None, seed: int = 0) -> Chain:
    """Make a last pass at a small and falling rate: the judges have done their work, and their rows take part.

    With every judging row comes another one, so that the pass stays short and the others are not forgotten. The
    parameters are those of ``refine``.
    """
    objective = Objective(rows, activation, Coordinates.of(rows, activation))
    state = objective.coordinates.inward(refined.chain)
    adam = Adam(state)
    generator = np.random.default_rng([seed, 1])
    solving, judging = np.flatnonzero(~rows.judges), np.flatnonzero(rows.judges)
    others = generator.choice(solving, min(len(solving), len(judging)), replace=False)
    order = generator.permutation(np.concatenate([judging, others]))
    steps, rate = max(1, len(order) // BATCH), LAST_RATE * _rate(refined.chain)
    for step in range(steps):
        batch = order[step * BATCH : (step + 1) * BATCH]
        state = adam.step(state, objective.gradient(state, batch), rate * (1 - step / steps))
    return objective.coordinates.outward(state)


def _rate(start: Chain) -> float:
    """Return the rate of the first step."""
    rate = RATE if start.taps is None else TAPPED_RATE
    return min(HIGHEST_RATE, rate / max(len(matrix.T) for matrix in start.rest))


def _work(start: Chain, rows: int, columns: int) -> float:
    """Return the multiply-accumulates of a pass over the rows, forwards and backwards."""
    return 3.0 * rows * (columns * start.first.size + sum(matrix.size for matrix in start.rest))
