"""From layers' times to a whole model's: choose, build, measure, correct, until the clock shows what was asked for.

With T₀ the time of the model with its normalisations folded and no layer rewritten, t_l(·) a layer's, and σ how much of
what the layers promise the whole model shows,

    T' = T₀ − σ·Σ_l (t_l(as it is) − t_l(chosen)).

Where nothing is folded T₀ is the original's time T. σ begins at 1. Each round allocates for the budget at which this
meets the target (``plan.select``), measures the whole model, and takes σ from what it saw. A plan is taken where the
whole confidence interval of its ratio meets the target, so that the next measurement will confirm it; where none surely
does, the fastest of those that seem to. The cheapest plan that fails shows that the target is out of reach.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx_lowrank.errors import TargetError
from onnx_lowrank.plan.choices import Layer
from onnx_lowrank.plan.select import SEARCHES, Chosen, total_cost, total_energy

ROUNDS = 8

CLOSE = 0.03
"""A ratio above the target by at most this share ends the search."""

MARGIN = 0.01
"""By so much the search aims above the target: the next measurement will not say exactly the same."""

DOUBT = 0.05
"""By so much more it aims at most where a ratio is above the target and its interval is not."""

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
        T' with σ = 1: what the layers' times alone predict.
    predicted_ms
        T' with σ from the rounds before this one was measured.
    correction
        σ from this one.
    measured
        The whole model.
    rounds
        Whole models that were measured.
    """

    chosen: Chosen
    layers: tuple[Layer, ...]
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
        f"speedup {speedup:g} is out of reach by the clock: the fastest ranks make this model "
        f"{math.floor(100 * reached) / 100:.2f} times as fast; lower --speedup or widen --include"
    )


def budget_for(original: int, alone: int, speedup: float, correction: float, folded: int | None = None) -> int:
    """Nanoseconds that all layers together may take, so that T' = T / speedup; ``folded`` is T₀, if it is not T."""
    return math.floor(alone - ((original if folded is None else folded) - original / speedup) / correction)


def search(
    layers_now: Callable[[], Sequence[Layer]],
    refine: Callable[[Sequence[Layer], Chosen], bool],
    measure: Callable[[Sequence[Layer], Chosen], WholeTime] | None,
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
    start_ms = original_ms / folded.ratio if folded else original_ms
    correction, best, perhaps, seen = 1.0, None, None, set[Chosen]()
    aim = speedup * (1 + MARGIN) if speedup > 1 and measure else speedup
    too_slow = math.inf  # the smallest cost that was too slow
    fastest = 0.0
    for done in range(1, ROUNDS + 1):
        layers = tuple(layers_now())
        alone = sum(layer.alone for layer in layers)
        budget = budget_for(round(1e6 * original_ms), alone, aim, correction, round(1e6 * start_ms))
        if seen:
            # What is known to be too slow need not be tried again, whatever σ says now.
            budget = int(min(budget, 0.99 * too_slow)) if too_slow < math.inf else budget
        if done == ROUNDS and best is None and perhaps is None:
            budget = 0  # only the lowest can show that the target is out of reach
        layers, chosen, lowest = _allocate(layers_now, refine, budget, how)
        cost, alone = total_cost(layers, chosen), sum(layer.alone for layer in layers)
        if cost == alone:
            same = folded or WholeTime(original_ms, original_ms, 1.0, 1.0)
            if speedup > max(1.0, same.ratio):
                raise out_of_reach(speedup, same.ratio)
            return Found(chosen, layers, start_ms, start_ms, 1.0, same, 0)
        saved_ms = (alone - cost) / 1e6
        from_layers, predicted = start_ms - saved_ms, start_ms - correction * saved_ms
        if measure is None:
            if original_ms / max(predicted, 1e-9) < speedup:
                raise out_of_reach(speedup, original_ms / predicted)
            return Found(chosen, layers, from_layers, predicted, correction, None, 0)
        if chosen in seen:
            break
        seen.add(chosen)
        time = measure(layers, chosen)
        if saved_ms > 0:
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
            too_slow, fastest = min(too_slow, cost), max(fastest, time.ratio)
            if lowest:
                break
    taken = best or perhaps
    if taken is None:
        raise out_of_reach(speedup, fastest)
    return taken


def _allocate(
    layers_now: Callable[[], Sequence[Layer]],
    refine: Callable[[Sequence[Layer], Chosen], bool],
    budget: int,
    how: str,
) -> tuple[tuple[Layer, ...], Chosen, bool]:
    """Choices whose times are measured, and whether they are the lowest that there are."""
    for attempt in range(REFINEMENTS + 1):
        layers = tuple(layers_now())
        lowest = sum(int(layer.costs[0]) for layer in layers)
        chosen = SEARCHES[how](layers, max(budget, lowest))
        if attempt == REFINEMENTS or not refine(layers, chosen):
            break
    return layers, chosen, budget <= lowest
