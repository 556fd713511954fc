"""From layers' times to a whole model's: choose, build, measure, correct, until the clock shows what was asked for.

With T₀ the time of the model with its normalisations folded and no layer rewritten, t_l(·) a layer's, and σ how much of
what the layers promise the whole model shows,

    T' = T₀ − σ·Σ_l (t_l(as it is) − t_l(chosen)).

Where nothing is folded T₀ is the original's time T. σ begins at 1. Each round allocates for the budget at which this
meets the target (``plan.select``), measures the whole model, and takes σ from what it saw. A plan is taken where the
whole confidence interval of its ratio meets the target, so that the next measurement will confirm it; where none surely
does, the fastest of those that seem to; where T₀ meets it no layer is touched. The cheapest plan that fails shows that
the target is out of reach.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx_lowrank.errors import TargetError
from onnx_lowrank.plan.allocate import SEARCHES, Chosen, total_cost, total_energy
from onnx_lowrank.plan.pareto import LayerChoices

ROUNDS = 8

CLOSE = 0.03
"""A ratio above the target by at most this share ends the search."""

MARGIN = 0.01
"""By so much the search aims above the target: the next measurement will not say exactly the same."""

DOUBT = 0.05
"""By so much more it aims at most where a ratio is above the target and its interval is not."""

TRIED = 0.99
"""Of the cost of a plan that was too slow the next one costs at most this share."""

REFINEMENTS = 4
"""How often, in one round, choices between measured ranks are measured and the choice is made again."""


@dataclass(frozen=True)
class WholeTime:
    """A whole model on the stopwatch, in turns with the original: both milliseconds, the ratio and its lower bound."""

    before_ms: float
    after_ms: float
    ratio: float
    low: float


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes
    ----------
    chosen
        An index into the choices of every layer.
    layers
        The choices.
    from_layers_ms
        T' with σ = 1: what T₀ and the layers' times predict.
    predicted_ms
        T' with σ from the rounds before this one was measured.
    correction
        σ from this one.
    measured
        The whole model.
    rounds
        Plans that were measured as whole models.
    """

    chosen: Chosen
    layers: tuple[LayerChoices, ...]
    from_layers_ms: float
    predicted_ms: float
    correction: float
    measured: WholeTime | None
    rounds: int


def out_of_reach(speedup: float, reached: float) -> TargetError:
    """A refusal with the largest ratio that can be reached, rounded down."""
    if reached <= 1:
        return TargetError(
            f"speedup {speedup:g} is out of reach by the clock: nothing was measured to make this model faster here; "
            "look at --target macs, or measure on the machine where it will run"
        )
    return TargetError(
        f"speedup {speedup:g} is out of reach by the clock: the fastest choice makes this model "
        f"{math.floor(100 * reached) / 100:.2f} times as fast; lower --speedup or widen --include"
    )


def budget_for(original: int, alone: int, speedup: float, correction: float, folded: int | None = None) -> int:
    """Nanoseconds that all layers together may take, so that T' = T / speedup; ``folded`` is T₀, if it is not T."""
    return math.floor(alone - ((original if folded is None else folded) - original / speedup) / correction)


def search(
    layers_now: Callable[[], Sequence[LayerChoices]],
    refine: Callable[[Sequence[LayerChoices], Chosen], bool],
    measure: Callable[[Sequence[LayerChoices], Chosen], WholeTime] | None,
    original_ms: float,
    speedup: float,
    how: str,
    folded: WholeTime | None = None,
) -> Found:
    """Choose for a speedup by the clock.

    Parameters
    ----------
    layers_now
        The choices of every layer, costs in nanoseconds, as far as they are measured by now.
    refine
        Measures what is chosen and was only interpolated; whether there was any.
    measure
        The whole model as chosen, beside the original; None where only predictions can be had.
    original_ms
        T.
    speedup
        T / T' asked for.
    how
        A key of ``plan.select.SEARCHES``.
    folded
        The model without any layer rewritten, where that is not the original.

    Raises
    ------
    TargetError
        With the largest ratio that was reached.
    """
    layers = tuple(layers_now())
    untouched = tuple(len(layer.costs) - 1 for layer in layers)
    same = folded or WholeTime(original_ms, original_ms, 1.0, 1.0)
    start_ms = original_ms / same.ratio
    as_it_is = Found(untouched, layers, start_ms, start_ms, 1.0, same, 0)
    if speedup <= 1 or same.low >= speedup:
        return as_it_is
    best, perhaps, fastest = None, as_it_is if same.ratio >= speedup else None, same.ratio
    correction, aim = 1.0, speedup * (1 + MARGIN) if measure else speedup
    # The smallest share of the layers' times that was too slow; without trials predictions are all there is.
    too_slow = 1.0 if measure else math.inf
    seen: set[tuple[Any, ...]] = set()
    only_lowest = False

    def budget(layers: Sequence[LayerChoices]) -> int:
        """From the times as they are known by now: a later measurement may have been less disturbed."""
        alone = sum(layer.untouched for layer in layers)
        target = budget_for(round(1e6 * original_ms), alone, aim, correction, round(1e6 * start_ms))
        # What is known to be too slow need not be tried again, whatever σ says now.
        return 0 if only_lowest else math.floor(min(target, TRIED * too_slow * alone))

    for done in range(1, ROUNDS + 1):
        # Only the lowest can show that the target is out of reach.
        only_lowest = done == ROUNDS and best is None and perhaps is None
        layers, chosen, lowest = _allocate(layers_now, refine, budget, how)
        cost, alone = total_cost(layers, chosen), sum(layer.untouched for layer in layers)
        choices = tuple(layer.choice(i) for layer, i in zip(layers, chosen, strict=True))
        if cost == alone or choices in seen:
            break
        seen.add(choices)
        saved_ms = (alone - cost) / 1e6
        from_layers, predicted = start_ms - saved_ms, start_ms - correction * saved_ms
        if measure is None:
            if original_ms / max(predicted, 1e-9) < speedup:
                raise out_of_reach(speedup, original_ms / predicted)
            return Found(chosen, layers, from_layers, predicted, correction, None, 0)
        time = measure(layers, chosen)
        correction = max(0.1, (start_ms - original_ms / time.ratio) / saved_ms)
        found = Found(chosen, layers, from_layers, predicted, correction, time, done)
        if time.low >= speedup:
            if best is None or total_energy(layers, chosen) > total_energy(best.layers, best.chosen):
                best = found
            if time.ratio <= (1 + CLOSE) * speedup:
                break
        else:
            if time.ratio >= max(fastest, speedup):
                perhaps = found
                aim = min(max(aim, speedup * time.ratio / time.low), (1 + DOUBT) * speedup)
            too_slow, fastest = min(too_slow, cost / alone), max(fastest, time.ratio)
            if lowest:
                break
    taken = best or perhaps
    if taken is None:
        raise out_of_reach(speedup, fastest)
    return taken


def _allocate(
    layers_now: Callable[[], Sequence[LayerChoices]],
    refine: Callable[[Sequence[LayerChoices], Chosen], bool],
    budget: Callable[[Sequence[LayerChoices]], int],
    how: str,
) -> tuple[tuple[LayerChoices, ...], Chosen, bool]:
    """Choices whose times are measured, and whether they are the lowest that there are."""
    for attempt in range(REFINEMENTS + 1):
        layers = tuple(layers_now())
        lowest, allowed = sum(int(layer.costs[0]) for layer in layers), budget(layers)
        chosen = SEARCHES[how](layers, max(allowed, lowest))
        if attempt == REFINEMENTS or not refine(layers, chosen):
            break
    return layers, chosen, allowed <= lowest
