"""The search for the fastest model that keeps a quality, by ask and tell.

The search solves nothing itself. Its caller repeats three steps: `QualitySearch.propose` names a speedup, the caller
makes the model and measures it, and `QualitySearch.observe` takes the share r of the accepted loss that the model
spends: 1 at the limit, less where the quality is kept, None where no choice of ranks reaches the speedup.

What is lost grows with the speedup s. Over t = log(s − 1), the logarithm of the factor by which s exceeds 1, y = log r
is nearly a straight line: from 3× to 8× the slope on a VGG-16 is 2.2 throughout. So the search

* follows the line through the two nearest models until one keeps the quality and a faster one does not (bracketing),
* draws the line between these two, and halves what is between them in t where the line has hit the same side twice
  (regula falsi with bisection),
* ends where both are close to each other, where the one that keeps the quality nearly spends the limit, where the
  highest speedup keeps it, or where the least worthwhile speedup does not.

A measurement is noisy, and may show a faster model to lose less than a slower one. Of many models near the limit the
luckiest would win. So a model counts only if all slower ones that were measured keep the quality as well.

The search is deterministic, and ends after a fixed number of models.
"""

import itertools
import math
from dataclasses import dataclass
from typing import TypeAlias

LEAST_SPEEDUP = 1.02
"""A lower speedup is not worth a model of its own."""

MOST = 8
"""The search asks for at most this many models."""

CLOSE = 1.02
"""The search ends where the fastest model that keeps the quality and the next one that does not are this close."""

NEAR = 0.05
"""The search ends where the loss is below the limit by no more than this share."""

SLOPE, FLATTEST, STEEPEST = 2.0, 0.5, 5.0
"""dy/dt as long as a single model was measured, and its bounds."""

LONGEST_STEP = math.log(3)
"""The search goes no further at once beyond the models that it knows."""

SHORTEST_STEP = math.log(1.1)
"""It goes at least so far."""

INSIDE = 0.15
"""A proposal between two models stays away from either by this share of what is between them."""

LEAST_SHARE = 1e-9
"""A smaller share of the accepted loss is as good as none."""


@dataclass(frozen=True)
class Observation:
    """A speedup, and the share of the accepted loss that its model spends; None where it is out of reach."""

    speedup: float
    spent: float | None

    @property
    def place(self) -> float:
        """t = log(s − 1)."""
        return math.log(self.speedup - 1)

    @property
    def height(self) -> float:
        """y = log r."""
        assert self.spent is not None
        return math.log(max(self.spent, LEAST_SHARE))


Bracket: TypeAlias = tuple[Observation | None, Observation | None]
"""The fastest model that keeps the quality, and the slowest one beyond it."""


class QualitySearch:
    """The search for the highest speedup at which r ≤ 1.

    Parameters
    ----------
    highest
        The highest speedup that makes sense to ask for, above ``LEAST_SPEEDUP``.
    start
        The first speedup to try.
    most
        The largest number of proposals.
    close
        See ``CLOSE``.
    """

    def __init__(self, highest: float, start: float, *, most: int = MOST, close: float = CLOSE) -> None:
        self._highest, self._start = highest, start
        self._most, self._close = most, close
        self._observations: list[Observation] = []
        self._proposal: float | None = None
        self._over = False
        self._moved: int | None = None  # the end of the bracket that moved last
        self._repeated = False

    def propose(self) -> float | None:
        """Return the next speedup, the same until it is observed; None where the search is over."""
        if self._proposal is None and not self._over:
            self._proposal = self._next()
            self._over = self._proposal is None
        return self._proposal

    def observe(self, speedup: float, spent: float | None) -> None:
        """Take the share of the accepted loss that a speedup spends; None where it is out of reach.

        Mostly it is the one that was proposed. Others, which were solved for another purpose, are welcome.
        """
        before = self._bracket()
        self._observations.append(Observation(speedup, math.inf if spent is not None and math.isnan(spent) else spent))
        if None not in before:
            moved = 0 if self._bracket()[0] != before[0] else 1
            # The line through both ends comes closer to the one that does not move too slowly.
            self._repeated, self._moved = moved == self._moved, moved
        if speedup == self._proposal:
            self._proposal = None

    @property
    def result(self) -> float | None:
        """The highest speedup up to now that keeps the quality; None where none does."""
        kept = self._bracket()[0]
        return kept.speedup if kept else None

    @property
    def closest(self) -> float | None:
        """The speedup that spends least; None where all that were tried are out of reach."""
        measured = [each for each in self._observations if each.spent is not None]
        return min(measured, key=lambda each: (each.height, each.speedup)).speedup if measured else None

    def _kept(self) -> list[Observation]:
        """Return the models that keep the quality, by rising speedup, up to the first that does not."""
        by_speedup = sorted(self._observations, key=lambda each: each.speedup)
        return list(itertools.takewhile(lambda each: each.spent is not None and each.spent <= 1, by_speedup))

    def _bracket(self) -> Bracket:
        """Return the fastest model that keeps the quality, and the slowest one beyond it."""
        kept = max(self._kept(), key=lambda each: each.speedup, default=None)
        beyond = [each for each in self._observations if kept is None or each.speedup > kept.speedup]
        return kept, min(beyond, key=lambda each: each.speedup, default=None)

    def _next(self) -> float | None:
        """Return the speedup at which the limit is expected; None where it is known well enough."""
        if len(self._observations) >= self._most:
            return None
        if not self._observations:
            return self._bounded(self._start)
        kept, missed = self._bracket()
        if kept is not None and (kept.speedup >= self._highest or kept.height >= -NEAR):
            return None
        if kept is None:
            assert missed is not None
            return None if missed.speedup <= LEAST_SPEEDUP else self._beyond(missed, -1)
        if missed is None:
            return self._beyond(kept, 1)
        if missed.speedup / kept.speedup <= self._close:
            return None
        share = 0.5
        if missed.spent is not None and math.isfinite(missed.spent) and not self._repeated:
            share = (-NEAR / 2 - kept.height) / (missed.height - kept.height)
        share = min(max(share, INSIDE), 1 - INSIDE)
        return self._at(kept.place + share * (missed.place - kept.place))

    def _beyond(self, end: Observation, way: int) -> float | None:
        """Return a speedup beyond the fastest model (way 1) or below the slowest (way −1); None for the same again."""
        step = LONGEST_STEP
        if end.spent is not None and math.isfinite(end.spent):
            step = way * (-NEAR / 2 - end.height) / self._slope(end)
        speedup = self._at(end.place + way * min(max(step, SHORTEST_STEP), LONGEST_STEP))
        return speedup if way * (speedup - end.speedup) > 0 else None

    def _slope(self, end: Observation) -> float:
        others = [each for each in self._observations if each is not end and each.spent is not None]
        others = [each for each in others if math.isfinite(each.height) and each.height > math.log(LEAST_SHARE)]
        if not others:
            return SLOPE
        nearest = min(others, key=lambda each: abs(each.place - end.place))
        return min(max((end.height - nearest.height) / (end.place - nearest.place), FLATTEST), STEEPEST)

    def _at(self, place: float) -> float:
        return self._bounded(1 + math.exp(place))

    def _bounded(self, speedup: float) -> float:
        """Round a speedup to what a user would type, within the bounds."""
        return min(max(float(f"{speedup:.4g}"), LEAST_SPEEDUP), self._highest)
