"""Properties of the plan over widths and ranks together, against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.widths import WidenedLayer, WidthChoices, WidthSearch

Array = NDArray[Any]

UNIT = 1000


def some_sets(rng: np.random.Generator, count: int, widths: int) -> list[WidthChoices]:
    """Return sets whose log-energies rise with the width."""
    sets = []
    for number in range(count):
        energies = -np.sort(-rng.exponential(0.05, widths))[::-1].cumsum()[::-1]
        sets.append(WidthChoices(f"s{number}", np.arange(1, widths + 1) * 8, np.append(-energies[1:], 0.0)))
    return sets


def some_layers(rng: np.random.Generator, seen: list[tuple[str, ...]], widths: int) -> list[WidenedLayer]:
    """Return layers whose cost is a product of the shares of the sets that they see, whole or in a cheaper form."""

    def layer(number: int, sets: tuple[str, ...]) -> WidenedLayer:
        energy, cost = -float(rng.exponential(0.1)), int(rng.integers(UNIT, 3 * UNIT))

        def choices_at(own: tuple[int, ...]) -> LayerChoices:
            whole = round(cost * float(np.prod([width / (8 * widths) for width in own])))
            cheap = round(0.6 * cost * float(np.mean([width / (8 * widths) for width in own] or [1.0])))
            if cheap >= whole:
                return LayerChoices(f"l{number}", np.array([whole]), np.zeros(1), (None,), ((),))
            return LayerChoices(
                f"l{number}", np.array([cheap, whole]), np.array([energy, 0.0]), ("channel", None), ((1,), ())
            )

        return WidenedLayer(f"l{number}", sets, choices_at)

    return [layer(number, sets) for number, sets in enumerate(seen)]


CHAIN = [("s0",), ("s0", "s1"), ("s1", "s2"), ("s2",), ()]
SHARED = [("s0",), ("s1",), ("s0", "s1", "s2"), ("s2", "s0"), ("s2",)]
APART = [("s0",), ("s0",), ("s1",), ("s2",), ()]


def lagrangian(search: WidthSearch, sets: list[WidthChoices], levels: dict[str, int], price: float) -> float:
    """Return the loss and the priced cost at some widths, with the best choice of every layer."""
    loss = -sum(float(one.log_energies[levels[one.name]]) for one in sets)
    return loss + sum(float((price * x.costs - x.log_energies).min()) for x in search.layers(levels))


@pytest.mark.parametrize("seen", [CHAIN, SHARED, APART], ids=["chain", "shared", "apart"])
@given(seed=st.integers(0, 10_000), price=st.floats(1e-7, 1e-2))
@settings(deadline=None, max_examples=25)
def test_no_widths_are_better_at_their_price(seen: list[tuple[str, ...]], seed: int, price: float) -> None:
    rng = np.random.default_rng(seed)
    sets = some_sets(rng, 3, 4)
    search = WidthSearch(sets, some_layers(rng, seen, 4))
    found = lagrangian(search, sets, search.priced(price), price)
    every = itertools.product(range(4), repeat=3)
    best = min(lagrangian(search, sets, dict(zip(("s0", "s1", "s2"), own, strict=True)), price) for own in every)
    assert found == pytest.approx(best, rel=1e-9, abs=1e-12)


@given(seed=st.integers(0, 10_000), share=st.floats(0.2, 1.0))
@settings(deadline=None, max_examples=25)
def test_the_widths_keep_within_the_budget(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sets = some_sets(rng, 3, 4)
    search = WidthSearch(sets, some_layers(rng, CHAIN, 4))
    untouched = sum(layer.untouched for layer in search.layers(search.full))
    budget = max(search.least, int(share * untouched))
    levels = search.best(budget)
    assert sum(int(layer.costs[0]) for layer in search.layers(levels)) <= budget
    if budget >= untouched:
        assert levels == search.full


def test_widths_one_by_one_are_never_worse_than_all_channels() -> None:
    rng = np.random.default_rng(5)
    sets = some_sets(rng, 12, 6)
    names = tuple(one.name for one in sets)
    # A layer that sees all sets makes a table that is too large.
    search = WidthSearch(sets, some_layers(rng, [names, *((name,) for name in names)], 6))
    for price in (1e-6, 1e-4, 1e-2):
        found = search.priced(price)
        assert lagrangian(search, sets, found, price) <= lagrangian(search, sets, search.full, price)
