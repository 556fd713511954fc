"""The search for a plan that makes the whole model as fast by the clock as was asked for, by ask and tell.

The search measures nothing itself. Its caller repeats three steps: `ClockSearch.propose` names what to measure next,
the caller measures it, and `ClockSearch.observe` takes the times. `ClockSearch.result` is the plan that was found.

With T the time of the original, T₀ that of the model whose normalisations are folded and whose layers are all
untouched, t_l(·) that of layer l, and σ the share of the layers' savings that the whole model shows, a plan is expected
to take

    T' = T₀ − σ·Σ_l (t_l(untouched) − t_l(chosen)).

T₀ is T where nothing is folded, and σ begins at 1. Each round allocates ranks for the budget at which T' meets the
target (``plan.allocate``), has those of the chosen times measured that were only interpolated, has the whole model
measured, and takes σ from its time.

A plan is confirmed if the whole confidence interval of its ratio meets the target: then the next measurement will meet
it as well. The confirmed plan that keeps the most energy is the result. If no plan is confirmed, the result is the
fastest one whose ratio meets the target, though its interval does not. If T₀ meets the target, no layer is touched. The
target is out of reach if even the cheapest plan misses it.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from onnx_lowrank.errors import TargetError
from onnx_lowrank.latency.proposals import Found, LayerProposal, ModelProposal, Proposal, TimedLayer, WholeTime
from onnx_lowrank.plan.allocate import SEARCHES, total_cost
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan

ROUNDS = 8
"""The search puts at most this many plans on the stopwatch."""

CLOSE = 0.03
"""A confirmed ratio that exceeds the target by at most this share ends the search."""

MARGIN = 0.01
"""The search aims above the target by this share, because the next measurement will differ a little."""

DOUBT = 0.05
"""The search aims above the target by at most this share where a ratio meets it and its interval does not."""

TRIED = 0.99
"""The next plan after one that was too slow costs at most this share of it."""

LEAST_CORRECTION = 0.1
"""σ stays above this, so that one disturbed measurement does not rule out all plans."""

REFINEMENTS = 4
"""One round has interpolated choices measured, and chooses again, at most this many times."""

LEAST_MS = 1e-9
"""A prediction is divided by at least this many milliseconds."""


def out_of_reach(speedup: float, reached: float) -> TargetError:
    """Return the refusal of a speedup; it states the largest ratio that was reached, rounded down."""
    if reached <= 1:
        return TargetError(
            f"speedup {speedup:g} is out of reach by the clock: nothing was measured to make this model faster here; "
            "look at --target macs, or measure on the machine where it will run"
        )
    return TargetError(
        f"speedup {speedup:g} is out of reach by the clock: the fastest choice makes this model "
        f"{math.floor(100 * reached) / 100:.2f} times as fast; lower --speedup"
    )


def budget_for(original: int, untouched: int, speedup: float, correction: float, folded: int | None = None) -> int:
    """Return the nanoseconds that all layers together may take so that T' = T / speedup.

    Parameters
    ----------
    original
        T, in nanoseconds.
    untouched
        Σ_l t_l(untouched), in nanoseconds.
    speedup
        T / T'.
    correction
        σ.
    folded
        T₀, in nanoseconds; None where it is T.
    """
    start = original if folded is None else folded
    return math.floor(untouched - (start - original / speedup) / correction)


class ClockSearch:
    """The search for one speedup by the clock.

    Parameters
    ----------
    layers
        The choices of every layer at the times that are known when the search begins.
    original_ms
        T.
    speedup
        T / T' asked for.
    allocation
        How a budget is shared among the layers, a key of ``plan.allocate.SEARCHES``.
    folded
        The time of the model whose layers are all untouched, where its normalisations are folded; None where nothing
        is folded.
    can_measure
        Whether the caller can measure. Without measurements the search predicts, and proposes nothing.
    """

    def __init__(
        self,
        layers: Sequence[TimedLayer],
        *,
        original_ms: float,
        speedup: float,
        allocation: str,
        folded: WholeTime | None = None,
        can_measure: bool = True,
    ) -> None:
        self._layers, self._original_ms, self._speedup = tuple(layers), original_ms, speedup
        self._allocate, self._can_measure = SEARCHES[allocation], can_measure
        untouched_time = folded or WholeTime(original_ms, original_ms, 1.0, 1.0)
        self._start_ms = original_ms / untouched_time.ratio
        fronts = tuple(layer.choices for layer in self._layers)
        last = tuple(len(front.costs) - 1 for front in fronts)
        untouched = Found(last, fronts, self._start_ms, self._start_ms, 1.0, untouched_time, 0)
        met = speedup <= 1 or untouched_time.low >= speedup
        self._confirmed = untouched if met else None
        self._likely = untouched if untouched_time.ratio >= speedup else None
        self._over = met
        self._fastest_ratio = untouched_time.ratio
        self._correction = 1.0
        self._aim = speedup * (1 + MARGIN) if can_measure else speedup
        # The smallest share of the layers' untouched times that was too slow. Predictions need no such bound.
        self._too_slow = 1.0 if can_measure else math.inf
        self._round, self._refinements = 1, 0
        self._tried: set[Plan] = set()
        self._proposal: Proposal | None = None
        self._candidate = untouched
        self._candidate_is_lowest = False

    def propose(self) -> Proposal | None:
        """Return what to measure next, the same until it is observed; None where the search is over."""
        if self._proposal is None and not self._over:
            self._proposal = self._next_proposal()
            self._over = self._proposal is None
        return self._proposal

    def observe(self, measured: WholeTime | Sequence[TimedLayer]) -> None:
        """Take what was measured of the last proposal.

        Parameters
        ----------
        measured
            For a ``ModelProposal`` the time of the whole model; for a ``LayerProposal`` the choices of every layer, in
            the same order as before, at the times that are known now.

        Raises
        ------
        ValueError
            If the last proposal asked for the other kind, or if there is none.
        """
        expected = ModelProposal if isinstance(measured, WholeTime) else LayerProposal
        if not isinstance(self._proposal, expected):
            raise ValueError(f"the search waits for the times of {self._proposal}, not for those of a {expected}")
        self._proposal = None
        if isinstance(measured, WholeTime):
            self._judge(measured)
            self._round, self._refinements = self._round + 1, 0
            self._over = self._over or self._round > ROUNDS
        else:
            self._layers = tuple(measured)
            self._refinements += 1

    def result(self) -> Found:
        """Return the plan, once ``propose`` returned None.

        Raises
        ------
        TargetError
            If no plan meets the target; the message states the largest ratio that was reached.
        """
        result = self._confirmed or self._likely
        if result is None:
            raise out_of_reach(self._speedup, self._fastest_ratio)
        return result

    def _next_proposal(self) -> Proposal | None:
        candidate, self._candidate_is_lowest = self._choose()
        plan = candidate.plan
        if self._can_measure and self._refinements < REFINEMENTS:
            interpolated = tuple(
                site
                for layer, index in zip(self._layers, candidate.chosen, strict=True)
                for site in layer.choices.site_plans(index)
                if site.form and (site.form, site.ranks) not in layer.measured
            )
            if interpolated:
                return LayerProposal(interpolated)
        if candidate.cost_ns == candidate.untouched_ns or plan in self._tried:
            return None
        self._tried.add(plan)
        self._candidate = candidate
        if self._can_measure:
            return ModelProposal(plan)
        if self._original_ms / max(candidate.predicted_ms, LEAST_MS) < self._speedup:
            self._fastest_ratio = self._original_ms / candidate.predicted_ms
        else:
            self._confirmed = candidate
        return None

    def _choose(self) -> tuple[Found, bool]:
        """Allocate for the target at the times of now; say whether these are the lowest choices that there are."""
        layers = tuple(layer.choices for layer in self._layers)
        lowest, budget = sum(int(layer.costs[0]) for layer in layers), self._budget(layers)
        chosen = self._allocate(layers, max(budget, lowest))
        saved_ms = (sum(layer.untouched for layer in layers) - total_cost(layers, chosen)) / 1e6
        expected = self._start_ms - saved_ms, self._start_ms - self._correction * saved_ms
        rounds = self._round if self._can_measure else 0
        return Found(chosen, layers, *expected, self._correction, None, rounds), budget <= lowest

    def _budget(self, layers: Sequence[LayerChoices]) -> int:
        """Nanoseconds that all layers together may take."""
        if self._round == ROUNDS and self._confirmed is None and self._likely is None:
            return 0  # Only the lowest choices can show that the target is out of reach.
        # The times may have changed since the last round: a later measurement may have been disturbed less.
        untouched = sum(layer.untouched for layer in layers)
        original, start = round(1e6 * self._original_ms), round(1e6 * self._start_ms)
        target = budget_for(original, untouched, self._aim, self._correction, start)
        # A cost that is known to be too slow need not be tried again, whatever σ is now.
        return math.floor(min(target, TRIED * self._too_slow * untouched))

    def _judge(self, time: WholeTime) -> None:
        """Learn from the time of the candidate."""
        candidate, speedup = self._candidate, self._speedup
        shown = (self._start_ms - self._original_ms / time.ratio) / candidate.saved_ms
        self._correction = max(LEAST_CORRECTION, shown)
        found = replace(candidate, correction=self._correction, measured=time)
        if time.low >= speedup:
            if self._confirmed is None or found.energy > self._confirmed.energy:
                self._confirmed = found
            self._over = time.ratio <= (1 + CLOSE) * speedup
            return
        if time.ratio >= max(self._fastest_ratio, speedup):
            self._likely = found
            self._aim = min(max(self._aim, speedup * time.ratio / time.low), (1 + DOUBT) * speedup)
        self._too_slow = min(self._too_slow, candidate.cost_ns / candidate.untouched_ns)
        self._fastest_ratio = max(self._fastest_ratio, time.ratio)
        self._over = self._candidate_is_lowest
