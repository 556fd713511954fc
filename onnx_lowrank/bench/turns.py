"""How fast several things are against one another: runs in turns, medians, and how sure their ratios are.

Whatever disturbs a machine, its temperature and its other work, changes slowly beside one run. So the things take turns
in one process, in an order that is drawn anew for every round, and each is compared with the others of its own round.

The speed of i over that of j is the median of the ratios t_j / t_i of all rounds. Its confidence interval is that of
the sign test: with x₁ ≤ … ≤ xₙ the ordered ratios, the median lies in [x_k, x_{n+1−k}] with probability
1 − 2·P(B < k), B ~ Binomial(n, ½), whatever their distribution (W. J. Conover, Practical Nonparametric Statistics,
3rd ed. 1999, §3.2; H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed. 2003, §7.1). Unlike the bootstrap of a
median it is exact for a few rounds too, and draws nothing at random.

Runs count from the point on where none of the things gets faster any more (A. Georges, D. Buytaert and L. Eeckhout,
Statistically Rigorous Java Performance Evaluation, OOPSLA 2007, call this the steady state).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

Array = NDArray[Any]

CONFIDENCE = 0.95

SETTLED, PATIENCE, LONGEST_WARMUP = 0.02, 3, 30
"""The warm-up is over once nothing has beaten its own best time by this share for so many rounds, or after this many
rounds."""

LONGEST_TURN = 10_000
"""Runs in one turn, at most."""


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes
    ----------
    rounds
        The most rounds that count.
    seconds
        The time for all of it, of which up to half goes to the warm-up: no further round begins that would end later,
        if it takes as long as the others. None: only the rounds are limited.
    fewest
        Rounds that are measured however long they take, but never more than ``rounds``; with fewer than six no interval
        reaches 95 %.
    turn
        Seconds that one turn lasts at least: what is faster than that runs several times in a row and the mean counts.
        The first run after another model finds its weights no longer in the processor's cache, a short turn little
        else.
    """

    rounds: int = 50
    seconds: float | None = None
    fewest: int = 6
    turn: float = 0.005

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}: at least one is measured")


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds, which hold the true value with a probability of at least ``confidence``.

    Where there are too few values for ``CONFIDENCE`` the bounds are the extremes, and ``confidence`` says what they are
    worth.
    """

    value: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Rounds:
    """What was measured.

    Attributes
    ----------
    seconds
        [n, m], of one run of each of m things, in the order of the n rounds.
    warmup
        Rounds before these.
    settled
        Whether the warm-up ended because nothing got faster any more, and not because it had lasted long enough.
    """

    seconds: Array
    warmup: int
    settled: bool

    def median(self, i: int) -> float:
        """Seconds of one run."""
        return float(np.median(self.seconds[:, i]))

    def quartiles(self, i: int) -> tuple[float, float]:
        """Seconds between which the middle half of the runs lies."""
        low, high = np.quantile(self.seconds[:, i], (0.25, 0.75))
        return float(low), float(high)

    def speed(self, i: int, base: int = 0) -> Interval:
        """How many times as fast as the base one of them is."""
        return median_interval(self.seconds[:, base] / self.seconds[:, i])


def median_interval(values: Sequence[float] | Array, confidence: float = CONFIDENCE) -> Interval:
    """The median of n values, and the narrowest two of them, as many from either end, that hold the true one.

    See the module; exact for independent values of whatever distribution.
    """
    x = np.sort(np.asarray(values, np.float64))
    n = len(x)
    # covered[k - 1] is the probability that the median lies in [x_k, x_{n+1-k}].
    covered = 1 - 2 * scipy.special.bdtr(np.arange((n + 1) // 2), n, 0.5)
    k = max(1, int((covered >= confidence).sum()))
    return Interval(float(np.median(x)), float(x[k - 1]), float(x[n - k]), float(covered[k - 1]))


def take_turns(
    runs: Sequence[Callable[[], object]],
    budget: Budget,
    seed: int = 0,
    now: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Run every one of them in every round.

    Parameters
    ----------
    runs
        What is measured.
    budget
        When to stop.
    seed
        Of the order within the rounds.
    now
        The clock, in seconds.
    """
    order = np.random.default_rng(seed)
    best, calls = np.full(len(runs), np.inf), [1] * len(runs)
    start = now()

    def one_round() -> Array:
        taken = np.empty(len(runs))
        for i in order.permutation(len(runs)):
            run, count = runs[i], calls[i]
            began = now()
            for _ in range(count):
                run()
            taken[i] = (now() - began) / count
        return taken

    def ends_within(share: float, seconds: float) -> bool:
        """Whether a round of so many seconds, begun now, ends within a share of the time."""
        return budget.seconds is None or now() - start + seconds <= share * budget.seconds

    warmup = idle = 0
    while idle < PATIENCE and warmup < LONGEST_WARMUP and (not warmup or ends_within(0.5, float(best @ calls))):
        taken = one_round()
        idle = 0 if (taken < (1 - SETTLED) * best).any() else idle + 1
        best = np.minimum(best, taken)
        calls[:] = [_calls(seconds, budget.turn) for seconds in best]
        warmup += 1
    began_counting, counted = now(), [one_round()]
    while len(counted) < min(budget.fewest, budget.rounds) or (
        len(counted) < budget.rounds and ends_within(1, (now() - began_counting) / len(counted))
    ):
        counted.append(one_round())
    return Rounds(np.array(counted), warmup, idle == PATIENCE)


def _calls(seconds: float, turn: float) -> int:
    """Runs that fill a turn."""
    return max(1, min(LONGEST_TURN, math.ceil(turn / seconds))) if seconds > 0 else LONGEST_TURN
