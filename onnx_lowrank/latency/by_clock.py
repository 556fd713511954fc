"""A plan by the clock: propose, measure, observe, until the whole model is as fast as was asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from onnx_lowrank.factorise.forms.preparation import PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.latency.clocked import Clocked
from onnx_lowrank.latency.proposals import LayerProposal, Outcome, TimedLayer
from onnx_lowrank.latency.search import ClockSearch, out_of_reach
from onnx_lowrank.latency.table import ORIGINAL
from onnx_lowrank.latency.trial import Factors, WholeTrials, factors_from_weights, placeholder_factors
from onnx_lowrank.plan.cost import Costs
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan, SitePlan

SURE = 1.3
"""A speedup is within reach where the layers' times alone promise this many times as much."""

LEAST_MS = 1e-9
"""A ratio of times divides by at least this many milliseconds."""

ChoicesAt: TypeAlias = Callable[[Mapping[str, Costs]], Sequence[LayerChoices]]
"""Returns the choices of all sites, in their order, at costs by site name."""


@dataclass(frozen=True)
class LatencyPlan:
    """A plan by the clock and the time that it is expected to take.

    Attributes
    ----------
    clocked
        The measurements behind it.
    found
        The result of the search.
    milliseconds
        (untouched, as planned) by site name.
    """

    clocked: Clocked
    found: Outcome
    milliseconds: Mapping[str, tuple[float, float]]

    @property
    def ratio(self) -> float:
        """The speedup that is expected: that of the trial, or of the prediction where there was none."""
        found = self.found
        return found.measured.ratio if found.measured else self.clocked.original_ms / max(found.predicted_ms, LEAST_MS)


def check_latency_reach(clocked: Clocked, kinds: FormTable) -> None:
    """Refuse a speedup that no choice reaches, before anything is profiled.

    If the layers' times leave it open, the whole model is measured at its fastest choices.

    Parameters
    ----------
    clocked
        The measured layers.
    kinds
        The kinds of form among which the planner chooses.

    Raises
    ------
    TargetError
        If the speedup is out of reach; the message states the largest ratio that was reached.
    """
    speedup, original_ms = clocked.deployment.options.speedup, clocked.original_ms
    fastest, saved_ms = _fastest_plan(clocked, kinds)
    if speedup <= 1 or original_ms > SURE * speedup * (original_ms - saved_ms):
        return
    if not any(choice.form for choice in fastest.sites) and not clocked.deployment.network.folded:
        raise out_of_reach(speedup, 1.0)
    trials = _whole_trials(clocked, placeholder_factors(clocked.deployment.forms))
    reached = trials.measure(fastest).ratio if trials else original_ms / max(original_ms - saved_ms, LEAST_MS)
    if reached < speedup:
        raise out_of_reach(speedup, reached)


def choose_by_clock(
    clocked: Clocked, kernels: Mapping[str, tuple[PreparedKernel, ...]], choices_at: ChoicesAt
) -> tuple[Plan, LatencyPlan]:
    """Choose the form and the ranks of every site for the speedup that the options ask for.

    Parameters
    ----------
    clocked
        The measured layers; the choices that were only interpolated are measured here as they are chosen.
    kernels
        What the forms have derived from the kernels of all groups, by site name.
    choices_at
        Returns the choices of all sites, in their order, at costs by site name.

    Raises
    ------
    TargetError
        If the speedup is out of reach; the message states the largest ratio that was reached.
    """

    def layers_now() -> list[TimedLayer]:
        costs = {site.name: clocked.costs(site.name) for site in clocked.deployment.sites}
        return [
            # Where sites share a weight, a choice is measured once it is measured for each of them.
            TimedLayer(layer, frozenset.intersection(*(frozenset(costs[name].times) for name in layer.names)))
            for layer in choices_at(costs)
        ]

    deployment = clocked.deployment
    options, trials = deployment.options, _whole_trials(clocked, factors_from_weights(kernels, deployment.forms))
    folded = trials.measure(untouched_plan(clocked)) if trials and clocked.deployment.network.folded else None
    search = ClockSearch(
        layers_now(),
        original_ms=clocked.original_ms,
        speedup=options.speedup,
        allocation=options.ranks,
        folded=folded,
        can_measure=trials is not None,
    )
    try:
        while proposal := search.propose():
            assert trials is not None  # otherwise nothing is proposed
            if isinstance(proposal, LayerProposal):
                clocked.measure(proposal.sites)
                search.observe(layers_now())
            else:
                search.observe(trials.measure(proposal.plan))
    finally:
        # The times are worth keeping even if no plan meets the target, or if the user interrupts the search.
        clocked.stopwatch.save()
    found = search.result()
    milliseconds = {}
    for site in found.plan.sites:
        costs = clocked.costs(site.name)
        milliseconds[site.name] = (costs.times[ORIGINAL], costs.milliseconds((site.form, site.ranks)))
    return found.plan, LatencyPlan(clocked, found, milliseconds)


def _whole_trials(clocked: Clocked, factors: Factors) -> WholeTrials | None:
    """Put whole models on the stopwatch; None where the device is not this machine."""
    deployment, stopwatch = clocked.deployment, clocked.stopwatch
    if stopwatch.open_session is None:
        return None
    return WholeTrials(deployment, factors, stopwatch.open_session, stopwatch.measure_models)


def untouched_plan(clocked: Clocked) -> Plan:
    """Return the plan that leaves all layers alone."""
    return Plan(tuple(SitePlan(site.name, None) for site in clocked.deployment.sites))


def _fastest_plan(clocked: Clocked, kinds: FormTable) -> tuple[Plan, float]:
    """Return the fastest measured choice of every site, and the milliseconds that all of them save."""
    fastest, saved_ms = [], 0.0
    for family in clocked.deployment.families:
        times = clocked.shared_costs(family.names).times
        best = min((choice for choice in times if choice == ORIGINAL or choice[0] in kinds), key=times.__getitem__)
        fastest += [SitePlan(name, *best) for name in family.names]
        saved_ms += times[ORIGINAL] - times[best]
    return Plan(tuple(fastest)), saved_ms
