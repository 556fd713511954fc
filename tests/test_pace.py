"""The search for the saving at which a model is as fast as was asked for, against machines whose times are known."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnx_lowrank.latency.pace import STEP, PaceSearch
from onnx_lowrank.latency.proposals import WholeTime
from onnx_lowrank.latency.search import CLOSE


@dataclass(frozen=True)
class Machine:
    """A machine on which a plan that promises to save u saves share·u^bend, and no plan saves more than ``most``.

    Attributes
    ----------
    share, bend
        How the whole model's time follows the promises.
    most
        The largest saving of any plan.
    folded
        The ratio of the model whose normalisations are folded.
    width
        The half width of an interval, relative to its ratio.
    """

    share: float
    bend: float
    most: float
    folded: float = 1.0
    width: float = 0.0

    def ratio(self, saving: float) -> float:
        """Return how many times as fast the model is."""
        return float(1 / (1 / self.folded - self.share * saving**self.bend))

    def time(self, saving: float) -> WholeTime:
        """Return the time of the plan for a saving."""
        ratio = self.ratio(saving)
        return WholeTime(10.0, 10.0 / ratio, ratio, ratio * (1 - self.width))


def search(machine: Machine, speedup: float, about: float) -> tuple[list[float], PaceSearch]:
    """Return the confirmed savings, in the order in which they were tried, and the search."""
    pace, confirmed = PaceSearch(speedup, about, machine.folded), []
    while (saving := pace.propose()) is not None:
        assert 0 < saving <= about
        if saving > machine.most:
            pace.no_plan(saving)
        elif pace.observe(saving, machine.time(saving)):
            confirmed.append(saving)
    return confirmed, pace


@given(
    share=st.floats(0.2, 1.2),
    bend=st.floats(0.8, 1.3),
    speedup=st.floats(1.05, 3),
    folded=st.floats(1, 1.04),
    width=st.floats(0, 0.01),
)
def test_the_saving_is_enough_and_not_much_more(
    share: float, bend: float, speedup: float, folded: float, width: float
) -> None:
    machine = Machine(share, bend, 0.75, folded, width)
    confirmed, pace = search(machine, speedup, 0.75)
    needed = ((1 / folded - (1 - width) / speedup) / share) ** (1 / bend)
    if needed > machine.most:
        assert not confirmed
    elif needed < machine.most - STEP:
        assert confirmed
        assert machine.time(confirmed[-1]).low >= speedup
        assert machine.ratio(confirmed[-1]) <= (1 + CLOSE) * speedup or confirmed[-1] <= needed + 3 * STEP
        assert confirmed == sorted(confirmed, reverse=True)
    assert pace.rounds <= 8


@pytest.mark.parametrize("about", [0.5, 0.7, 0.9])
def test_what_is_out_of_reach_is_refused_with_the_largest_ratio(about: float) -> None:
    machine = Machine(0.9, 1.0, 0.5)
    confirmed, pace = search(machine, 3.0, about)
    assert not confirmed
    stated = float(str(pace.out_of_reach()).split(" times as fast")[0].rpartition(" ")[2])
    assert stated == pytest.approx(machine.ratio(0.5), abs=0.08)
    assert stated <= machine.ratio(0.5)


def test_a_saving_for_which_there_is_no_plan_does_not_end_the_search() -> None:
    machine = Machine(0.3, 1.0, 0.55)
    confirmed, _ = search(machine, 1.15, 0.9)
    assert confirmed
    assert math.isclose(machine.ratio(confirmed[-1]), 1.15, rel_tol=0.03)


def test_a_plan_that_saves_nothing_is_no_reason_to_stop() -> None:
    pace = PaceSearch(1.3, 0.6)
    first = pace.propose()
    assert first is not None
    assert not pace.observe(first, WholeTime(10.0, 10.0, 1.0, 0.99))
    second = pace.propose()
    assert second is not None and second > first
