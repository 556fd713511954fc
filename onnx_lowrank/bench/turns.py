"""The speeds of several candidates relative to one another: runs in turns, medians, and confidence intervals.

What disturbs a machine, such as its temperature and its other work, changes slowly compared with one run. So the
candidates take turns in one process, in an order that is drawn anew for every round, and each is compared with the
others of its own round.

The speed of candidate i relative to j is the median of the ratios t_j / t_i of all rounds. Its confidence interval is
that of the sign test. With x₁ ≤ … ≤ xₙ the ordered ratios, the median lies in [x_k, x_{n+1−k}] with probability
1 − 2·P(B < k), B ~ Binomial(n, ½), whatever their distribution (W. J. Conover, Practical Nonparametric Statistics,
3rd ed. 1999, §3.2; H. A. David and H. N. Nagaraja, Order Statistics, 3rd ed. 2003, §7.1). Unlike the bootstrap of a
median, this interval is exact for a few rounds as well, and draws nothing at random.

Rounds count once no candidate gets faster any more (A. Georges, D. Buytaert and L. Eeckhout, Statistically Rigorous
Java Performance Evaluation, OOPSLA 2007, call this the steady state).
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from onnx_lowrank.interface import Feeds

Array = NDArray[Any]

CONFIDENCE = 0.95
"""The probability with which an interval holds the true value, where there are enough rounds."""

SETTLED, PATIENCE = 0.02, 3
"""The warm-up is over once no candidate has beaten its own best time by this share for this many rounds."""

LONGEST_WARMUP = 30
"""The warm-up takes at most this many rounds."""

LONGEST_TURN = 10_000
"""One turn has at most this many runs."""


@dataclass(frozen=True)
class Budget:
    """The time that a measurement may take.

    Attributes
    ----------
    rounds
        The most rounds that count.
    seconds
        The time for all rounds, of which up to half goes to the warm-up; None where only the rounds are limited. No
        round begins that would end later if it took as long as the others.
    fewest
        The rounds that are measured however long they take, though never more than ``rounds``. With fewer than six no
        interval reaches 95 %.
    turn
        The least seconds of one turn. A faster candidate runs several times in a row, and the mean counts. The first
        run after another model does not find its weights in the processor's cache, and short turns would measure
        little else.

    Raises
    ------
    ValueError
        If ``rounds`` is less than one.
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

    Where there are too few values for ``CONFIDENCE``, the bounds are the extremes and ``confidence`` is lower.
    """

    value: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class Rounds:
    """The measured times of m candidates in n rounds.

    Attributes
    ----------
    seconds
        [n, m], the seconds of one run of each candidate, in the order of the rounds.
    warmup
        The number of rounds before these.
    settled
        Whether the warm-up ended because no candidate got faster any more; otherwise its time was up.
    """

    seconds: Array
    warmup: int
    settled: bool

    def median(self, i: int) -> float:
        """Return the median seconds of one run of candidate i."""
        return float(np.median(self.seconds[:, i]))

    def quartiles(self, i: int) -> tuple[float, float]:
        """Return the seconds between which the middle half of candidate i's runs lies."""
        low, high = np.quantile(self.seconds[:, i], (0.25, 0.75))
        return float(low), float(high)

    def speed(self, i: int, base: int = 0) -> Interval:
        """Return how many times as fast as the base candidate i is."""
        return median_interval(self.seconds[:, base] / self.seconds[:, i])


def median_interval(values: Sequence[float] | Array, confidence: float = CONFIDENCE) -> Interval:
    """Return the median of values and the interval of the sign test; see the module.

    The interval is exact for independent values, whatever their distribution.

    Parameters
    ----------
    values
        [n].
    confidence
        The least probability with which the interval holds the true median.
    """
    x = np.sort(np.asarray(values, np.float64))
    n = len(x)
    # covered[k - 1] is the probability that the median lies in [x_k, x_{n+1-k}].
    covered = 1 - 2 * scipy.special.bdtr(np.arange((n + 1) // 2), n, 0.5)
    k = max(1, int((covered >= confidence).sum()))
    return Interval(float(np.median(x)), float(x[k - 1]), float(x[n - k]), float(covered[k - 1]))


def run_in_turns(
    sessions: Sequence[Callable[[Feeds], object]], feeds: Sequence[Feeds], budget: Budget, seed: int = 0
) -> Rounds:
    """Measure models in turns, each of them on its own batch; see ``take_turns``."""
    return take_turns([partial(session, own) for session, own in zip(sessions, feeds, strict=True)], budget, seed)


def take_turns(
    runs: Sequence[Callable[[], object]],
    budget: Budget,
    seed: int = 0,
    now: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Measure candidates in turns, each in every round.

    Parameters
    ----------
    runs
        [m], one run of each candidate.
    budget
        The time that the measurement may take.
    seed
        The seed of the order within the rounds.
    now
        Returns the time of the clock, in seconds.
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
        """Return whether a round of so many seconds that begins now ends within a share of the budget's time."""
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
    """Return the number of runs of so many seconds that fill a turn."""
    return max(1, min(LONGEST_TURN, math.ceil(turn / seconds))) if seconds > 0 else LONGEST_TURN
