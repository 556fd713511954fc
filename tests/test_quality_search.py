"""The search for the fastest model that keeps a quality, on curves of error that are known."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.plan.quality_search import CLOSE, LEAST_SPEEDUP, MOST, NEAR, QualitySearch

Curve = Callable[[float], float | None]


def searched(
    curve: Curve, highest: float = 20.0, start: float = 2.0, **bounds: int
) -> tuple[QualitySearch, list[float]]:
    """A search that is over, and its proposals."""
    search, proposals = QualitySearch(highest, start, **bounds), list[float]()
    while (speedup := search.propose()) is not None:
        assert search.propose() == speedup
        assert speedup not in proposals, "a speedup is solved once"
        proposals.append(speedup)
        search.observe(speedup, curve(speedup))
    assert search.propose() is None
    return search, proposals


def power(crossing: float, exponent: float) -> Curve:
    """What is lost grows with a power of what the speedup is above 1, and reaches the limit at the crossing."""
    return lambda speedup: ((speedup - 1) / (crossing - 1)) ** exponent


crossings = st.floats(1.03, 18.0)
exponents = st.floats(0.8, 4.0)
starts = st.floats(1.1, 15.0)


@given(crossings, exponents, starts)
def test_the_result_keeps_the_quality_and_is_close_to_the_limit(crossing: float, exponent: float, start: float) -> None:
    curve = power(crossing, exponent)
    search, proposals = searched(curve, start=start)
    assert len(proposals) <= MOST
    assert all(LEAST_SPEEDUP <= speedup <= 20 for speedup in proposals)
    assert search.result is not None
    assert (curve(search.result) or 0) <= 1
    assert search.result >= crossing / 1.1


@given(crossings, exponents, starts)
def test_a_search_that_ends_early_has_found_the_limit(crossing: float, exponent: float, start: float) -> None:
    curve = power(crossing, exponent)
    search, proposals = searched(curve, start=start, most=30)
    assert search.result is not None and len(proposals) < 30
    missed = min((speedup for speedup in proposals if speedup > search.result), default=math.inf)
    assert missed / search.result <= CLOSE + 1e-3 or (curve(search.result) or 0) >= math.exp(-NEAR) - 1e-9


@given(st.floats(1.5, 50), starts)
def test_where_everything_keeps_the_quality_the_highest_speedup_is_the_result(highest: float, start: float) -> None:
    search, proposals = searched(lambda _: 0.0, highest, start)
    assert search.result == highest == max(proposals)


@given(starts)
def test_where_nothing_keeps_it_the_least_speedup_was_tried_and_comes_closest(start: float) -> None:
    search, proposals = searched(lambda speedup: 5 * speedup, start=start, most=20)
    assert search.result is None and search.closest == LEAST_SPEEDUP == proposals[-1]


@pytest.mark.parametrize("ruined", [math.inf, math.nan, None])
@given(crossings, st.floats(1.05, 3))
def test_ruined_outputs_and_unreachable_speedups_are_limits_as_well(
    ruined: float | None, crossing: float, share: float
) -> None:
    """Beyond the crossing of a curve that never spends the limit there is nothing."""
    search, _ = searched(lambda speedup: 0.5 / share if speedup <= crossing else ruined, start=1.5, most=20)
    assert search.result is not None and crossing / 1.05 <= search.result <= crossing


def test_where_nothing_is_in_reach_nothing_comes_closest() -> None:
    search, _ = searched(lambda _: None)
    assert search.result is None and search.closest is None


def test_a_lucky_model_beyond_one_that_fails_does_not_count() -> None:
    search, tried = QualitySearch(20, 2.0), list[float]()
    for loss in (0.5, 1.3, 1.2, 0.9):
        tried.append(search.propose() or 0.0)
        search.observe(tried[-1], loss)
    assert tried[0] < tried[3] < tried[2] < tried[1]
    assert search.result == tried[3], "no slower model fails"
    search.observe(tried[1] + 1, 0.1)
    assert search.result == tried[3]
    unlucky = QualitySearch(20, 2.0)
    for loss in (1.1, 0.5):
        unlucky.observe(unlucky.propose() or 0.0, loss)
    assert unlucky.result is not None and unlucky.result < 2


@given(st.integers(0, 10_000), crossings)
def test_noise_costs_little_and_changes_nothing_between_runs(seed: int, crossing: float) -> None:
    def noisy() -> Curve:
        rng, curve = np.random.default_rng(seed), power(crossing, 2)
        return lambda speedup: (curve(speedup) or 0) * math.exp(0.2 * rng.normal())

    search, proposals = searched(noisy())
    again, same = searched(noisy())
    assert proposals == same and search.result == again.result
    assert search.result is None or search.result <= 1 + 1.6 * (crossing - 1)


def test_models_that_were_solved_for_another_purpose_count_as_well() -> None:
    search = QualitySearch(20, 2.0)
    proposed = search.propose()
    search.observe(3.0, 0.5)
    assert search.propose() == proposed and search.result == 3.0
