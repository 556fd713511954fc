"""Timing of several candidates relative to one another, on a clock that only moves when they run."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.bench.turns import LONGEST_WARMUP, Budget, Rounds, median_interval, take_turns


class Machine:
    """Its clock moves by what runs, and by nothing else; ``ran`` holds the numbers of the candidates in their order."""

    def __init__(self, *costs: Iterator[float]) -> None:
        self.time, self.ran = 1e6, list[int]()
        self.runs = [self._run(i, seconds) for i, seconds in enumerate(costs)]

    def _run(self, i: int, costs: Iterator[float]) -> Callable[[], None]:
        def run() -> None:
            self.ran.append(i)
            self.time += next(costs)

        return run

    def now(self) -> float:
        return self.time

    def measure(self, budget: Budget, seed: int = 0) -> Rounds:
        return take_turns(self.runs, budget, seed, self.now)


def noisy(seconds: float, seed: int, noise: float = 0.2) -> Iterator[float]:
    """Times that are now and then far longer, as on a busy machine."""
    rng = np.random.default_rng(seed)
    while True:
        yield seconds * float(np.exp(noise * rng.standard_exponential()) + (rng.random() < 0.1))


NO_TURN = Budget(turn=0)

# ---- the interval


@given(st.lists(st.floats(0.01, 100), min_size=6, max_size=200))
@settings(deadline=None)
def test_the_interval_is_that_of_the_sign_test_and_holds_the_median(values: list[float]) -> None:
    interval = median_interval(values)
    reference: Any = scipy.stats.quantile_test(values, q=float(np.median(values)), p=0.5)
    low, high = reference.confidence_interval(0.95)
    assert (interval.low, interval.high) == (low, high)
    assert interval.low <= interval.value <= interval.high
    assert 0.95 <= interval.confidence < 1


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9, 20, 51])
def test_the_stated_confidence_is_the_share_of_samples_whose_interval_holds_the_true_median(n: int) -> None:
    # Every pattern of n values above and below a true median of 0 is equally likely; k of them are below it.
    interval = median_interval(range(n))
    k = int(interval.low) + 1
    inside = sum(math.comb(n, below) for below in range(n + 1) if k <= below <= n - k)
    assert interval.confidence == pytest.approx(inside / 2**n)
    assert interval.high == n - k


def test_too_few_values_say_how_little_their_extremes_are_worth() -> None:
    interval = median_interval([3, 1, 2, 5, 4])
    assert (interval.value, interval.low, interval.high, interval.confidence) == (3, 1, 5, 1 - 2 / 2**5)
    assert median_interval([7]).confidence == 0


# ---- what is found


@given(seed=st.integers(0, 1000), factor=st.floats(0.2, 5))
@settings(max_examples=30, deadline=None)
def test_a_known_factor_is_found_exactly_where_the_clock_has_no_noise(seed: int, factor: float) -> None:
    machine = Machine(itertools.repeat(0.01), itertools.repeat(0.01 * factor))
    speed = machine.measure(Budget(20), seed).speed(1)
    assert (speed.value, speed.low, speed.high) == pytest.approx((1 / factor,) * 3)


def test_the_interval_holds_the_true_factor_as_often_as_it_says() -> None:
    held = {1.0: 0, 1.3: 0}
    repetitions = 200
    for factor, seed in itertools.product(held, range(repetitions)):
        machine = Machine(noisy(0.01 * factor, 2 * seed), noisy(0.01, 2 * seed + 1))
        speed = machine.measure(Budget(rounds=25, turn=0), seed).speed(1)
        held[factor] += speed.low <= factor <= speed.high
    for factor, count in held.items():
        # With a probability of 0.957 each; fewer than this happen once in ten thousand times.
        assert count >= scipy.stats.binom.ppf(1e-4, repetitions, 0.957), factor


def test_a_small_difference_is_told_from_none_by_more_rounds() -> None:
    def width(rounds: int) -> float:
        speed = Machine(noisy(0.01, 1), noisy(0.0098, 2)).measure(Budget(rounds=rounds, turn=0)).speed(1)
        return speed.high - speed.low

    assert width(1000) < width(30) / 3


def test_a_machine_that_slows_down_slows_both_and_hides_nothing() -> None:
    share = 1.0

    def slowing(seconds: float) -> Iterator[float]:
        nonlocal share
        while True:
            share *= 1.01
            yield seconds * share

    speed = Machine(slowing(0.02), slowing(0.01)).measure(Budget(rounds=40, turn=0)).speed(1)
    assert speed.low <= 2 <= speed.high
    assert speed.value == pytest.approx(2, rel=0.015)  # of the two in a round, the later one is 1 % slower


def test_median_and_quartiles_are_those_of_the_counted_rounds() -> None:
    times = Rounds(np.array([[4.0], [1.0], [2.0], [3.0], [100.0]]), 1, True)
    assert (times.median(0), times.quartiles(0)) == (3, (2, 4))
    assert times.speed(0).value == 1


# ---- how it is found


def test_all_take_part_in_every_round_in_an_order_that_the_seed_decides() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        machine = Machine(*(itertools.repeat(0.01) for _ in range(3)))
        machine.measure(Budget(rounds=40, turn=0), seed)
        return [tuple(machine.ran[i : i + 3]) for i in range(0, len(machine.ran), 3)]

    first = orders(7)
    assert all(sorted(one) == [0, 1, 2] for one in first)
    assert len(set(first)) == 6
    assert first == orders(7) != orders(8)


def test_the_warm_up_lasts_until_nothing_gets_faster() -> None:
    falling = [1.0, 0.8, 0.6, 0.5, 0.4]
    machine = Machine(itertools.repeat(0.1), itertools.chain(falling, itertools.repeat(0.3)))
    times = machine.measure(Budget(rounds=10))
    assert times.settled and times.warmup > len(falling)
    assert times.seconds[:, 1] == pytest.approx(0.3)


def test_what_never_settles_is_measured_all_the_same() -> None:
    machine = Machine(0.9**i for i in itertools.count())
    times = machine.measure(Budget(rounds=10, turn=0))
    assert not times.settled and times.warmup == LONGEST_WARMUP and len(times.seconds) == 10


def test_what_is_fast_runs_several_times_in_a_turn() -> None:
    machine = Machine(itertools.repeat(0.001), itertools.repeat(0.1))
    times = machine.measure(Budget(rounds=10, turn=0.01))
    assert times.seconds[0] == pytest.approx([0.001, 0.1])
    counted = machine.ran[-10 * 11 :]
    assert (counted.count(0), counted.count(1)) == (100, 10)


def test_a_clock_too_coarse_to_see_a_run_does_not_divide_by_zero() -> None:
    times = Machine(itertools.repeat(0.0)).measure(Budget(rounds=2, turn=0.01))
    assert times.median(0) == 0


@given(
    costs=st.lists(st.floats(0.001, 2), min_size=1, max_size=4),
    seconds=st.floats(0.1, 60),
    rounds=st.integers(1, 40),
    fewest=st.integers(1, 40),
)
@settings(max_examples=100, deadline=None)
def test_the_budget_holds_unless_the_fewest_rounds_take_longer(
    costs: list[float], seconds: float, rounds: int, fewest: int
) -> None:
    machine = Machine(*map(itertools.repeat, costs))
    start = machine.time
    times = machine.measure(Budget(rounds, seconds, fewest, turn=0))
    counted = len(times.seconds)
    assert min(rounds, fewest) <= counted <= rounds
    taken = machine.time - start
    assert taken <= seconds + 1e-6 or counted == min(rounds, fewest)
    # Nor is time left over in which another round would have fitted.
    assert counted == rounds or taken + sum(costs) >= seconds - 1e-6 or counted == min(rounds, fewest)


def test_no_rounds_are_no_measurement() -> None:
    with pytest.raises(ValueError, match="rounds is 0"):
        Budget(rounds=0)
