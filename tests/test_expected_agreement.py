"""The agreement that is expected of two classifiers, from margins and what they drop by."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from onnx_lowrank.stages.expected_agreement import expected_disagreement, margins

Array = NDArray[Any]


def scores(seed: int, samples: int, classes: int, noise: float = 0.0) -> tuple[Array, Array]:
    """Scores of an original, and of another model that is off by some noise."""
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(samples, classes)) * 3
    return original, original + noise * rng.normal(size=original.shape)


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(2, 7), st.floats(0, 5))
def test_models_disagree_where_the_margin_drops_by_itself(seed: int, samples: int, classes: int, noise: float) -> None:
    original, other = scores(seed, samples, classes, noise)
    top = original.argmax(axis=1)
    own = margins(original, top)
    drops = own - margins(other, top)
    expected = expected_disagreement(own, own, drops)
    assert (own >= 0).all()
    assert expected.counted == np.mean(other.argmax(axis=1) != top)
    assert 0 <= expected.share <= 1 and expected.standard_error > 0
    assert expected.bound(1) >= max(expected.share, expected.counted)


@given(st.integers(0, 1000), st.integers(1, 60), st.integers(60, 400))
def test_what_changes_nothing_is_expected_to_change_nothing_but_not_for_sure(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    every, own = rng.exponential(size=n) + 1e-9, rng.exponential(size=k) + 1e-9
    same = expected_disagreement(every, own, np.zeros(k))
    assert same.share == same.counted == 0
    assert same.bound(1) >= 0.5 / n - 1e-12
    other = expected_disagreement(every, own, np.full(k, 1e6))
    assert other.share == other.counted == 1


@given(st.integers(0, 1000), st.floats(0, 2), st.floats(0, 2))
def test_larger_drops_make_more_disagreements(seed: int, one: float, more: float) -> None:
    rng = np.random.default_rng(seed)
    every, own, drops = rng.exponential(size=200), rng.exponential(size=50), rng.normal(size=50)
    less = expected_disagreement(every, own, drops + one).share
    assert less <= expected_disagreement(every, own, drops + one + more).share


def test_the_estimate_is_right_on_average_and_surer_than_counting() -> None:
    """Of 120 draws of 100 samples, with 400 margins, from a population whose disagreement is known."""
    original, other = scores(3, 20_000, 10, 0.15)
    top = original.argmax(axis=1)
    every = margins(original, top)
    drops = every - margins(other, top)
    true = float((drops >= every).mean())
    assert 0.02 < true < 0.08
    rng, found = np.random.default_rng(0), []
    for _ in range(120):
        drawn = rng.choice(len(every), 400, replace=False)
        found.append(expected_disagreement(every[drawn], every[drawn[:100]], drops[drawn[:100]]))
    shares, counted = np.array([each.share for each in found]), np.array([each.counted for each in found])
    assert np.mean(shares) == pytest.approx(true, rel=0.1)
    assert shares.std() < 0.9 * counted.std()
    assert np.mean([each.standard_error for each in found]) == pytest.approx(shares.std(), rel=0.4)
    assert np.mean([each.bound(1.645) >= true for each in found]) > 0.85


def test_scores_that_are_not_finite_are_the_lowest() -> None:
    odd = np.array([[1.0, np.nan, -np.inf], [np.inf, 0.0, 1.0]])
    found = margins(odd, np.array([0, 0]))
    assert np.isfinite(found).all() and (found > 0).all()
