"""The search for a plan by the clock, on simulated machines whose true times are known."""

import itertools
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.energy import log_shares
from onnx_lowrank.factorise.forms.channel import CHANNEL
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.spatial import SPATIAL
from onnx_lowrank.latency.proposals import Found, LayerProposal, ModelProposal, Proposal, TimedLayer, WholeTime
from onnx_lowrank.latency.search import (
    CLOSE,
    DOUBT,
    LEAST_CORRECTION,
    MARGIN,
    REFINEMENTS,
    ROUNDS,
    TRIED,
    ClockSearch,
    budget_for,
)
from onnx_lowrank.latency.table import ORIGINAL, Choice
from onnx_lowrank.latency.time_costs import LatencyCosts
from onnx_lowrank.plan.allocate import GRID, SEARCHES, total_cost, total_energy
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan


def falling(decay: float, highest: int) -> Energies:
    """The energies of a form with one rank, from a geometric spectrum."""
    shares = log_shares(decay ** np.arange(highest))
    return lambda ranks: np.asarray(shares[ranks[:, 0] - 1])


class Machine:
    """A machine on which all layers are measured.

    Folding makes the model ``gain`` times as fast, and the model shows the share ``truth`` of all savings. The time of
    a plan is off by up to the share ``noise``, always by the same. The lower bound of a measured ratio is below it by
    the share ``doubt``. ``asked`` holds all proposals.
    """

    def __init__(
        self,
        layers: Sequence[LayerChoices],
        original_ms: float,
        *,
        gain: float = 1.0,
        truth: float = 1.0,
        doubt: float = 0.0,
        noise: float = 0.0,
    ) -> None:
        self.layers, self.original_ms = list(layers), original_ms
        self.gain, self.truth, self.doubt, self.noise = gain, truth, doubt, noise
        self.asked = list[Proposal]()

    @property
    def plans(self) -> list[Plan]:
        """Plans that were measured as whole models."""
        return [proposal.plan for proposal in self.asked if isinstance(proposal, ModelProposal)]

    @property
    def untouched(self) -> int:
        return sum(layer.untouched for layer in self.layers)

    @property
    def lowest(self) -> int:
        return sum(int(layer.costs[0]) for layer in self.layers)

    def timed_layers(self) -> list[TimedLayer]:
        return [TimedLayer(x, frozenset(x.choice(i) for i in range(len(x.costs)))) for x in self.layers]

    def measure_layers(self, proposal: LayerProposal) -> list[TimedLayer]:
        self.asked.append(proposal)
        return self.timed_layers()

    def measure_model(self, proposal: ModelProposal) -> WholeTime:
        self.asked.append(proposal)
        cost = total_cost(self.layers, self.indices(proposal.plan))
        after = self.original_ms / self.gain - self.truth * (self.untouched - cost) / 1e6
        off = np.random.default_rng(zlib.crc32(repr(proposal.plan).encode())).uniform(-self.noise, self.noise)
        return self.whole_time(self.original_ms / (after * (1 + float(off))))

    def whole_time(self, ratio: float) -> WholeTime:
        return WholeTime(self.original_ms, self.original_ms / ratio, ratio, (1 - self.doubt) * ratio)

    def folded(self) -> WholeTime | None:
        return None if self.gain == 1 else self.whole_time(self.gain)

    def indices(self, plan: Plan) -> list[int]:
        """Where the choices of a plan are among those of its layers."""
        choices = [(site.form, site.ranks) for site in plan.sites]
        return [[x.choice(i) for i in range(len(x.costs))].index(c) for x, c in zip(self.layers, choices, strict=True)]


class InterpolatingMachine(Machine):
    """A machine that knows few of the layers' times; those measured later rise with the ranks only by and large."""

    def __init__(self, count: int, seed: int, around_ms: float, **whole_model: float) -> None:
        rng = np.random.default_rng(seed)
        self.energies = [falling(decay, 12) for decay in rng.uniform(0.5, 0.9, count)]
        self.true = [1 + 2 * rng.random() * np.arange(1, 13) / 12 + 0.3 * rng.random(12) for _ in range(count)]
        self.times: list[dict[Choice, float]] = [{ORIGINAL: float(times[-1]) + 0.5} for times in self.true]
        for i, rank in itertools.product(range(count), (1, 12)):
            self.times[i]["channel", (rank,)] = float(self.true[i][rank - 1])
        super().__init__(self.fronts(), around_ms + sum(times[ORIGINAL] for times in self.times), **whole_model)

    def fronts(self) -> list[LayerChoices]:
        shape = ConvShape(12, 10, (3, 3), (10, 10), (10, 10))
        both = zip(self.energies, self.times, strict=True)
        return [
            pareto_front(str(i), shape, {CHANNEL: energy}, costs=LatencyCosts(dict(times)))
            for i, (energy, times) in enumerate(both)
        ]

    def timed_layers(self) -> list[TimedLayer]:
        return [TimedLayer(x, frozenset(times)) for x, times in zip(self.layers, self.times, strict=True)]

    def measure_layers(self, proposal: LayerProposal) -> list[TimedLayer]:
        for site in proposal.sites:
            (rank,) = site.ranks
            self.times[int(site.name)][site.form, site.ranks] = float(self.true[int(site.name)][rank - 1])
        self.layers = self.fronts()
        return super().measure_layers(proposal)


def search_on(machine: Machine, speedup: float, folded: WholeTime | None = None) -> ClockSearch:
    return ClockSearch(
        machine.timed_layers(),
        original_ms=machine.original_ms,
        speedup=speedup,
        allocation="exact",
        folded=folded or machine.folded(),
    )


def finish(search: ClockSearch, machine: Machine) -> Found:
    while proposal := search.propose():
        if isinstance(proposal, LayerProposal):
            search.observe(machine.measure_layers(proposal))
        else:
            search.observe(machine.measure_model(proposal))
    return search.result()


def run_search(machine: Machine, speedup: float) -> Found:
    return finish(search_on(machine, speedup), machine)


def choices_of(found: Found) -> list[Choice]:
    return [(site.form, site.ranks) for site in found.plan.sites]


def fake_layers(count: int, seed: int) -> list[LayerChoices]:
    """Layers with times that have little to do with MACs: a staircase of 4 with a constant that depends on the form."""
    rng = np.random.default_rng(seed)
    layers = []
    for i in range(count):
        shape = ConvShape(12, 10, (3, 3), (10, 10), (10, 10))
        untouched = float(rng.uniform(1, 3))
        times: dict[Choice, float] = {ORIGINAL: untouched}
        start, slope = rng.uniform(0.05, 0.6), rng.uniform(0.5, 1.2)
        for rank in (4, 8, 12):
            times["channel", (rank,)] = float(untouched * (start + slope * rank / 16))
        for column in (4, 8, 16, 20):
            times["spatial", (column,)] = float(untouched * (start / 2 + slope * column / 24))
        energies = {CHANNEL: falling(rng.uniform(0.5, 0.9), 12), SPATIAL: falling(rng.uniform(0.7, 0.9), 30)}
        layers.append(pareto_front(str(i), shape, energies, RankMultiple(4), LatencyCosts(times)))
    return layers


def within_reach(count: int, seed: int, share: float) -> tuple[list[LayerChoices], float, float]:
    """Layers, the milliseconds of the model around them, and the speedup of saving a share of all that can be saved."""
    layers = fake_layers(count, seed)
    untouched, lowest = (sum(int(x.costs[i]) for x in layers) for i in (-1, 0))
    original = 1.5 + untouched / 1e6
    return layers, original, original / (original - share * (untouched - lowest) / 1e6)


def slow_layer() -> LayerChoices:
    """A layer that no form makes faster."""
    costs = LatencyCosts({ORIGINAL: 1.0, ("channel", (4,)): 1.5})
    assert not costs.gains
    shape = ConvShape(8, 8, (3, 3), (2, 5), (2, 5))
    return pareto_front("a", shape, {CHANNEL: falling(0.5, 8)}, costs=costs)


# ---- what it finds


@given(
    count=st.integers(1, 4),
    seed=st.integers(0, 1000),
    share=st.floats(0.1, 0.9),
    truth=st.sampled_from([0.7, 1.0, 1.2]),
)
@settings(max_examples=25, deadline=None)
def test_a_plan_by_the_clock_meets_its_target_and_keeps_the_most_energy(
    count: int, seed: int, share: float, truth: float
) -> None:
    layers, original, speedup = within_reach(count, seed, truth * share)
    machine = Machine(layers, original, truth=truth)
    found = run_search(machine, speedup)
    assert found.measured is not None and found.measured.ratio >= speedup
    assert len(machine.plans) <= ROUNDS
    # Nothing that is as fast keeps more energy than what is fast enough by the margin of the search may.
    every = list(itertools.product(*(range(len(x.costs)) for x in layers)))
    cost = total_cost(layers, found.chosen)
    best = max(total_energy(layers, c) for c in every if total_cost(layers, c) <= cost)
    grid = cost - (cost - machine.lowest) * len(layers) / GRID - 1
    least = max((total_energy(layers, c) for c in every if total_cost(layers, c) <= grid), default=-np.inf)
    assert least - 1e-9 <= total_energy(layers, found.chosen) <= best + 1e-9


@given(count=st.integers(1, 4), seed=st.integers(0, 1000), share=st.floats(0.1, 0.8), doubt=st.floats(0, 0.08))
@settings(max_examples=25, deadline=None)
def test_a_ratio_in_doubt_is_met_by_its_lower_bound_where_that_can_be(
    count: int, seed: int, share: float, doubt: float
) -> None:
    layers, original, speedup = within_reach(count, seed, share)
    machine = Machine(layers, original, doubt=doubt)
    found = run_search(machine, speedup)
    assert found.measured is not None and found.measured.ratio >= speedup and len(machine.plans) <= ROUNDS
    reach = original / (original - (machine.untouched - machine.lowest) / 1e6)
    if doubt < 0.04 and (1 - doubt) * reach > 1.1 * speedup:
        assert found.measured.low >= speedup


@given(count=st.integers(1, 3), seed=st.integers(0, 1000), truth=st.sampled_from([0.5, 1.0]))
@settings(max_examples=20, deadline=None)
def test_what_is_out_of_reach_is_refused_with_the_largest_ratio(count: int, seed: int, truth: float) -> None:
    layers, original, _ = within_reach(count, seed, 0.5)
    machine = Machine(layers, original, truth=truth)
    reach = original / (original - truth * (machine.untouched - machine.lowest) / 1e6)
    with pytest.raises(TargetError) as caught:
        run_search(machine, 1.01 * reach + 0.01)
    stated = re.search(r"this model (\d+\.\d\d) times as fast", str(caught.value))
    assert stated and float(stated[1]) == pytest.approx(reach, abs=0.011)


def test_nothing_faster_is_a_reason_of_its_own_and_speedup_one_changes_nothing() -> None:
    assert slow_layer().choice(0) == ORIGINAL
    with pytest.raises(TargetError, match="nothing was measured to make this model faster"):
        run_search(Machine([slow_layer()], 3.0), 1.1)
    machine = Machine(fake_layers(2, 0), 10.0)
    assert choices_of(run_search(machine, 1.0)) == [ORIGINAL] * 2 and machine.asked == []


@given(count=st.integers(1, 4), seed=st.integers(0, 1000), share=st.floats(0.1, 0.5), gain=st.floats(0.85, 1.2))
@settings(max_examples=30, deadline=None)
def test_what_folding_gains_need_not_be_gained_by_the_layers(count: int, seed: int, share: float, gain: float) -> None:
    layers, original, _ = within_reach(count, seed, share)
    machine = Machine(layers, original, gain=gain)
    asked = original / (original / gain - share * (machine.untouched - machine.lowest) / 1e6)
    if asked > 1:
        found = run_search(machine, asked)
        assert found.measured and found.measured.ratio >= asked
        # The layers show what they promise: nothing that folding gained or lost is taken for theirs.
        assert found.correction == pytest.approx(1) or found.rounds == 0
        assert found.predicted_ms == pytest.approx(found.measured.after_ms)
    if gain > 1:
        found = run_search(machine, gain)
        assert found.rounds == 0 and choices_of(found) == [ORIGINAL] * count


def test_an_untouched_model_that_only_seems_to_be_fast_enough_is_one_of_the_trials() -> None:
    layers, original, _ = within_reach(3, 0, 0.5)
    machine, doubtful = Machine(layers, original, gain=1.2), WholeTime(original, original / 1.2, 1.2, 1.1)
    found = finish(search_on(machine, 1.15, doubtful), machine)
    assert found.measured and found.measured.low >= 1.15 and found.rounds > 0
    # Where there is nothing else to choose, it is the result.
    slow = Machine([slow_layer()], original, gain=1.2)
    assert finish(search_on(slow, 1.15, doubtful), slow).measured == doubtful
    with pytest.raises(TargetError, match=r"this model 1\.20 times as fast"):
        finish(search_on(slow, 1.3, doubtful), slow)


@given(count=st.integers(1, 4), seed=st.integers(0, 1000), share=st.floats(0.02, 0.8), slower=st.floats(1.0, 1.3))
@settings(max_examples=30, deadline=None)
def test_layers_that_turn_out_to_have_been_measured_on_a_busy_machine_do_no_harm(
    count: int, seed: int, share: float, slower: float
) -> None:
    layers, original, speedup = within_reach(count, seed, share)
    machine = Machine(layers, original)
    busy = [replace(x, costs=np.ceil(slower * x.costs).astype(np.int64)) for x in layers]
    unknown = [TimedLayer(layer, frozenset()) for layer in busy]
    search = ClockSearch(unknown, original_ms=original, speedup=speedup, allocation="exact")
    found = finish(search, machine)
    assert isinstance(machine.asked[0], LayerProposal)
    assert found.measured and found.measured.ratio >= speedup


def test_interpolated_choices_are_measured_before_they_are_taken() -> None:
    shape = ConvShape(16, 16, (3, 3), (2, 5), (2, 5))
    times: dict[Choice, float] = {ORIGINAL: 4.0, ("channel", (2,)): 0.5, ("channel", (14,)): 3.5}

    def layers() -> list[TimedLayer]:
        front = pareto_front("a", shape, {CHANNEL: falling(0.8, 16)}, RankMultiple(2), LatencyCosts(times))
        return [TimedLayer(front, frozenset(times))]

    search = ClockSearch(layers(), original_ms=5.0, speedup=2.0, allocation="exact")
    asked = list[SitePlan]()
    while proposal := search.propose():
        if isinstance(proposal, LayerProposal):
            asked += proposal.sites
            # All are slower than the straight line says.
            times.update({(site.form, site.ranks): 3.0 for site in proposal.sites})
            search.observe(layers())
        else:
            (site,) = proposal.plan.sites
            after = 1.0 + times[site.form, site.ranks]
            search.observe(WholeTime(5.0, after, 5.0 / after, 5.0 / after))
    found = search.result()
    assert asked and found.measured and found.measured.ratio >= 2
    assert choices_of(found) == [("channel", (2,))]


def test_the_last_round_tries_the_cheapest_plan() -> None:
    """Only the cheapest plan meets the target, by far; all others miss it by a little, whatever they save."""
    layers, original, speedup = within_reach(4, 3, 0.1)
    cheapest = Plan(tuple(SitePlan(x.name, *x.choice(0)) for x in layers))
    search = ClockSearch(
        Machine(layers, original).timed_layers(), original_ms=original, speedup=speedup, allocation="exact"
    )
    plans = []
    while isinstance(proposal := search.propose(), ModelProposal):
        plans.append(proposal.plan)
        ratio = 2 * speedup if proposal.plan == cheapest else 0.995 * speedup
        search.observe(WholeTime(original, original / ratio, ratio, ratio))
    assert len(plans) == ROUNDS and plans.index(cheapest) == ROUNDS - 1
    assert search.result().plan == cheapest


def test_where_nothing_can_be_measured_the_plan_is_predicted() -> None:
    layers, original, speedup = within_reach(3, 0, 0.5)
    timed = [TimedLayer(layer, frozenset()) for layer in layers]
    search = ClockSearch(timed, original_ms=original, speedup=speedup, allocation="exact", can_measure=False)
    assert search.propose() is None
    found = search.result()
    assert found.measured is None and found.rounds == 0 and found.correction == 1
    assert found.predicted_ms == found.from_layers_ms <= original / speedup
    search = ClockSearch(timed, original_ms=original, speedup=100, allocation="exact", can_measure=False)
    assert search.propose() is None
    with pytest.raises(TargetError, match="times as fast"):
        search.result()


def test_the_budget_is_what_the_target_leaves() -> None:
    assert budget_for(10_000, 6_000, 2.0, 1.0) == 1_000
    assert budget_for(10_000, 6_000, 2.0, 0.5) == -4_000
    assert budget_for(10_000, 6_000, 2.0, 1.0, folded=8_000) == 3_000


# ---- asking and telling


def test_a_proposal_stays_until_its_own_times_are_told() -> None:
    machine = InterpolatingMachine(2, 0, 1.0)
    search = search_on(machine, 1.3)
    layers = search.propose()
    assert isinstance(layers, LayerProposal) and search.propose() is layers
    with pytest.raises(ValueError, match="waits for the times"):
        search.observe(WholeTime(2.0, 1.0, 2.0, 2.0))
    while isinstance(proposal := search.propose(), LayerProposal):
        search.observe(machine.measure_layers(proposal))
    assert isinstance(proposal, ModelProposal)
    with pytest.raises(ValueError, match="waits for the times"):
        search.observe(machine.timed_layers())
    finish(search, machine)
    with pytest.raises(ValueError, match="waits for the times"):
        search.observe(machine.timed_layers())


def in_one_loop(machine: Machine, speedup: float) -> Found | None:
    """The search as a loop that measures by itself; None where the speedup is out of reach."""
    folded = machine.folded() or WholeTime(machine.original_ms, machine.original_ms, 1.0, 1.0)
    start, timed = machine.original_ms / folded.ratio, machine.timed_layers()
    layers = tuple(layer.choices for layer in timed)
    untouched = Found(tuple(len(x.costs) - 1 for x in layers), layers, start, start, 1.0, folded, 0)
    if speedup <= 1 or folded.low >= speedup:
        return untouched
    confirmed, likely = list[Found](), [untouched] if folded.ratio >= speedup else []
    slow_ratios, slow_shares = [folded.ratio], [1.0]
    sigma, aim, lowest = 1.0, (1 + MARGIN) * speedup, False
    while len(tried := machine.plans) < ROUNDS and not lowest:
        for left in range(REFINEMENTS, -1, -1):
            layers = tuple(layer.choices for layer in timed)
            total = sum(layer.untouched for layer in layers)
            wanted = budget_for(round(1e6 * machine.original_ms), total, aim, sigma, round(1e6 * start))
            budget = math.floor(min(wanted, TRIED * min(slow_shares) * total))
            if len(tried) == ROUNDS - 1 and not confirmed + likely:
                budget = 0
            least = sum(int(layer.costs[0]) for layer in layers)
            chosen, lowest = SEARCHES["exact"](layers, max(budget, least)), budget <= least
            sites = [SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)]
            guessed = [s for s, x in zip(sites, timed, strict=True) if s.form and (s.form, s.ranks) not in x.measured]
            if not (guessed and left):
                break
            timed = machine.measure_layers(LayerProposal(tuple(guessed)))
        plan, saved = Plan(tuple(sites)), (total - total_cost(layers, chosen)) / 1e6
        if not saved or plan in tried:
            break
        time = machine.measure_model(ModelProposal(plan))
        shown = max(LEAST_CORRECTION, (start - machine.original_ms / time.ratio) / saved)
        found = Found(chosen, layers, start - saved, start - sigma * saved, shown, time, len(tried) + 1)
        sigma = shown
        if time.low >= speedup:
            confirmed.append(found)
            lowest = time.ratio <= (1 + CLOSE) * speedup
            continue
        if time.ratio >= max(*slow_ratios, speedup):
            likely.append(found)
            aim = min(max(aim, speedup * time.ratio / time.low), (1 + DOUBT) * speedup)
        slow_ratios.append(time.ratio)
        slow_shares.append(total_cost(layers, chosen) / total)
    return max(confirmed, key=lambda found: found.energy) if confirmed else likely[-1] if likely else None


def described(found: Found | None) -> tuple[object, ...]:
    """All that can be compared: the arrays of the layers' choices cannot."""
    if found is None:
        return ()
    return found.plan, found.from_layers_ms, found.predicted_ms, found.correction, found.measured, found.rounds


def agree(machine: Machine, other: Machine, speedup: float) -> None:
    """Search on two machines that are alike, by ask and tell and in one loop: proposals and plans are the same."""
    expected = in_one_loop(other, speedup)
    try:
        found = run_search(machine, speedup)
    except TargetError:
        assert expected is None
    else:
        assert described(found) == described(expected)
    assert machine.asked == other.asked


WHOLE_MODELS = st.fixed_dictionaries(
    {
        "truth": st.sampled_from([0.05, 0.5, 1.0, 1.2]),
        "doubt": st.sampled_from([0.0, 0.01, 0.06]),
        "noise": st.sampled_from([0.0, 0.01, 0.05, 0.2]),
    }
)


@given(
    count=st.integers(1, 4),
    seed=st.integers(0, 1000),
    share=st.floats(0.1, 1.2),
    gain=st.sampled_from([1.0, 0.9, 1.1]),
    whole_model=WHOLE_MODELS,
)
@settings(max_examples=80, deadline=None)
def test_asking_and_telling_decides_as_one_loop_would(
    count: int, seed: int, share: float, gain: float, whole_model: dict[str, float]
) -> None:
    layers, original, speedup = within_reach(count, seed, share)
    one, other = (Machine(layers, original, gain=gain, **whole_model) for _ in range(2))
    agree(one, other, speedup)


@given(
    count=st.integers(1, 4),
    seed=st.integers(0, 1000),
    around=st.floats(0.05, 3.0),
    speedup=st.floats(1.0, 2.5),
    whole_model=WHOLE_MODELS,
)
@settings(max_examples=120, deadline=None)
def test_asking_and_telling_decides_as_one_loop_would_where_times_are_interpolated(
    count: int, seed: int, around: float, speedup: float, whole_model: dict[str, float]
) -> None:
    one, other = (InterpolatingMachine(count, seed, around, **whole_model) for _ in range(2))
    agree(one, other, speedup)


@pytest.mark.parametrize("seed", range(8))
def test_many_rounds_decide_as_one_loop_would(seed: int) -> None:
    """On a machine whose times hardly rise with what the plans cost, so that the search seldom ends early."""
    for speedup in (1.2, 1.3, 1.4, 1.5):
        one, other = (InterpolatingMachine(4, seed, 0.2, truth=0.6, doubt=0.01, noise=0.1) for _ in range(2))
        agree(one, other, speedup)
        assert len(one.plans) <= ROUNDS
