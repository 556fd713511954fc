"""The search for how much a plan has to save so that the whole model is as fast by the clock as was asked for.

Where layers lose channels, their times are only estimated, and so is their sum: the plan for a saving u, the share of
the original's time that it promises to save, takes

    T' = T₀ − σ·u·T

with T the time of the original, T₀ that of the model whose normalisations are folded, and a share σ that the whole
model shows. Each round proposes a saving and takes σ from the time of its plan, as ``latency.search`` does for layers
whose times were measured. The search measures nothing itself.
"""

import math

from onnx_lowrank.errors import TargetError
from onnx_lowrank.latency.proposals import WholeTime
from onnx_lowrank.latency.search import CLOSE, LEAST_CORRECTION, MARGIN, ROUNDS, out_of_reach

STEP = 0.01
"""Two savings that differ by less are the same."""


class PaceSearch:
    """The search for the smallest saving that is confirmed to be enough, by ask and tell.

    Parameters
    ----------
    speedup
        T / T' asked for.
    most
        About the largest saving of any plan.
    folded
        T / T₀.
    """

    def __init__(self, speedup: float, most: float, folded: float = 1.0) -> None:
        self._speedup, self._most, self._start = speedup, most, 1 / folded
        self._correction, self._rounds = 1.0, 0
        self._too_slow, self._enough = 0.0, math.inf  # the largest saving that missed, and the smallest that met
        self._none = math.inf  # the smallest saving for which there was no plan
        self._reached, self._over = folded, False

    @property
    def correction(self) -> float:
        """σ, as the last plan has shown it."""
        return self._correction

    @property
    def rounds(self) -> int:
        """The number of plans that were measured."""
        return self._rounds

    def propose(self) -> float | None:
        """Return the saving whose plan to measure next; None where the search is over."""
        met = math.isfinite(self._enough)
        highest = self._enough - STEP if met else min(self._most, (self._too_slow + self._none) / 2)
        if self._over or self._rounds == ROUNDS or highest - self._too_slow < STEP:
            return None
        if self._rounds == ROUNDS - 1 and not met:
            return highest  # only the largest saving can show that the target is out of reach
        wanted = (self._start - 1 / (self._speedup * (1 + MARGIN))) / self._correction
        return min(max(wanted, self._too_slow + STEP), highest)

    def observe(self, saving: float, time: WholeTime) -> bool:
        """Take the time of the plan for a saving, and return whether it is confirmed to be as fast as was asked for."""
        self._rounds += 1
        self._reached = max(self._reached, time.ratio)
        self._correction = max(LEAST_CORRECTION, (self._start - 1 / time.ratio) / max(saving, STEP))
        if time.low < self._speedup:
            self._too_slow = max(self._too_slow, saving)
            return False
        self._enough = min(self._enough, saving)
        self._over = time.ratio <= (1 + CLOSE) * self._speedup
        return True

    def no_plan(self, saving: float) -> None:
        """Hear that no plan saves so much, as ``most`` is only about right."""
        self._none = saving

    def out_of_reach(self) -> TargetError:
        """Return the refusal, where no plan was confirmed."""
        return out_of_reach(self._speedup, self._reached)
