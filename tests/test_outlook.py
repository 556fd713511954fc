"""What milder speedups are estimated to keep, from one that was measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.plan.outlook import SATURATED, Outlook
from onnx_lowrank.plan.pareto import LayerChoices


def layer(name: str, seed: int) -> LayerChoices:
    """A layer whose kept energy rises with its cost."""
    costs = np.arange(1, 101) * 100
    lost = np.random.default_rng(seed).uniform(0.5, 2) * (1 - costs / costs[-1]) ** 2
    forms = (*["channel"] * 99, None)
    return LayerChoices(name, costs, -lost, forms, (*((rank,) for rank in range(1, 100)), ()))


def outlook(speedup: float, search: str = "exact") -> Outlook:
    layers = [layer("a", 1), layer("b", 2), layer("c", 3)]
    return Outlook(layers, 1000 + sum(choices.untouched for choices in layers), speedup, search)


@pytest.mark.parametrize("search", ["exact", "greedy", "uniform"])
@settings(max_examples=20, deadline=None)
@given(error=st.floats(1e-6, SATURATED), wanted=st.floats(1e-6, 0.5), speedup=st.floats(1.2, 6))
def test_a_milder_speedup_is_lower_and_so_is_its_error(
    search: str, error: float, wanted: float, speedup: float
) -> None:
    milder = outlook(speedup, search).milder(error, wanted)
    assert milder is not None
    assert 1 <= milder.speedup < speedup and 0 <= milder.low <= milder.error <= milder.high < error
    if milder.error > wanted:  # the mildest of those that are looked at
        assert milder.speedup == float(f"{1 + 0.1 * (speedup - 1):.3g}")


@settings(max_examples=20, deadline=None)
@given(small=st.floats(1e-6, 0.4), large=st.floats(0.41, SATURATED))
def test_from_a_larger_error_a_larger_one_is_estimated(small: float, large: float) -> None:
    never = 0.0  # so that the mildest speedup is reported
    low, high = (outlook(3).milder(error, never) for error in (small, large))
    assert low is not None and high is not None
    assert low.speedup == high.speedup and low.error < high.error


def test_small_errors_fall_with_a_power_of_the_energy_that_is_lost() -> None:
    """To first order half of the lost energy leaves half of the error; where energy says less, more of it."""
    costs, forms = np.array([10, 20, 40]), ("channel", "channel", None)
    choices = LayerChoices("a", costs, np.array([-0.4, -0.2, 0.0]), forms, ((1,), (2,), ()))
    milder = Outlook([choices], 40, 4, "exact").milder(0.001, 0.0008)
    assert milder is not None and milder.speedup == 1.75  # 40 / 20 is the next choice, and 2.5 leaves 16
    estimates = [0.001 * 0.5**power for power in (1 / 2, 1, 1 / 3)]
    assert [milder.error, milder.low, milder.high] == pytest.approx(estimates, rel=1e-3)


@pytest.mark.parametrize("error", [0.0, 0.99, 1.0, 5.0, float("nan"), float("inf")])
def test_an_error_from_which_nothing_can_be_told(error: float) -> None:
    assert outlook(3).milder(error, 0.1) is None


def test_no_speedup_is_milder_than_none() -> None:
    assert outlook(1).milder(0.3, 0.1) is None
