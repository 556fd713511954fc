"""A plan by the clock: which layers are measured, what is chosen, and what the whole model then takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.factorise.forms.kind import PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.latency.clocked import Clocked
from onnx_lowrank.latency.search import Found, out_of_reach, search
from onnx_lowrank.latency.table import ORIGINAL, Choice
from onnx_lowrank.latency.trial import folds, meaningless, weights_alone, whole_times
from onnx_lowrank.options import Options
from onnx_lowrank.plan.allocate import Chosen
from onnx_lowrank.plan.cost import Costs
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan, SitePlan

SURE = 1.3
"""Where the layers' times alone promise so many times the speedup asked for, it is taken to be within reach."""


@dataclass(frozen=True)
class LatencyPlan:
    """A plan by the clock and what it is expected to take.

    Attributes
    ----------
    clocked
        The measurements behind it.
    found
        The search's result.
    milliseconds
        (as it is, as planned) by site name.
    """

    clocked: Clocked
    found: Found
    milliseconds: Mapping[str, tuple[float, float]]


def check_latency_reach(
    clocked: Clocked,
    loaded: LoadedModel,
    sites: Sequence[ConvSite],
    sampling: Sampling,
    options: Options,
    kinds: FormTable,
) -> None:
    """Refuse a speedup that no choice reaches, before anything is profiled.

    Where the layers' times leave it open, the whole model is measured at its fastest choices.

    Raises
    ------
    TargetError
        With the largest ratio that was reached.
    """
    fastest, saved = [], 0.0
    for site in sites:
        costs = clocked.costs(site.name)
        choices = {c: t for c, t in costs.times.items() if c == ORIGINAL or c[0] in kinds}
        best = min(choices, key=lambda choice: choices[choice])
        fastest.append(SitePlan(site.name, *best))
        saved += costs.times[ORIGINAL] - choices[best]
    if options.speedup <= 1 or clocked.original_ms > SURE * options.speedup * (clocked.original_ms - saved):
        return
    plan = Plan(tuple(fastest))
    if not any(choice.form for choice in plan.sites) and not folds(loaded):
        raise out_of_reach(options.speedup, 1.0)
    if clocked.stopwatch.can_measure:
        feeds = sampling.source.feeds(clocked.batch)
        reached = whole_times(loaded, sites, feeds, options, meaningless(kinds))(plan).ratio
    else:
        reached = clocked.original_ms / max(clocked.original_ms - saved, 1e-9)
    if reached < options.speedup:
        raise out_of_reach(options.speedup, reached)


def choose_by_clock(
    clocked: Clocked,
    loaded: LoadedModel,
    sites: Sequence[ConvSite],
    prepared: Mapping[str, tuple[PreparedKernel, ...]],
    forms: FormTable,
    layers_at: Callable[[Mapping[str, Costs]], Sequence[LayerChoices]],
    sampling: Sampling,
    options: Options,
) -> tuple[Plan, LatencyPlan]:
    """The forms and ranks of all sites for the speedup by the clock.

    Parameters
    ----------
    clocked
        The measurements.
    loaded, sites, prepared, forms
        The model, its sites, what their forms need, and the table of forms.
    layers_at
        The choices of all sites, in their order, at costs by site name.
    sampling, options
        Of the run.

    Raises
    ------
    TargetError
        With the largest ratio that was reached.
    """

    def layers_now() -> Sequence[LayerChoices]:
        return layers_at({site.name: clocked.costs(site.name) for site in sites})

    def plan(layers: Sequence[LayerChoices], chosen: Chosen) -> Plan:
        return Plan(tuple(SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)))

    def refine(layers: Sequence[LayerChoices], chosen: Chosen) -> bool:
        wanted: dict[ConvGeometry, list[Choice]] = {}
        for choice in plan(layers, chosen).sites:
            geometry, ranks = clocked.geometries[choice.name], (choice.form, choice.ranks)
            if choice.form and ranks not in clocked.costs(choice.name).times:
                wanted.setdefault(geometry, []).append(ranks)
        if not clocked.stopwatch.can_measure:
            return False
        for geometry, choices in wanted.items():
            clocked.stopwatch.layer(geometry, choices)
        return bool(wanted)

    measure = folded = None
    if clocked.stopwatch.can_measure:
        feeds = sampling.source.feeds(clocked.batch)
        whole = whole_times(loaded, sites, feeds, options, weights_alone(prepared, forms))
        measure = lambda layers, chosen: whole(plan(layers, chosen))  # noqa: E731
        folded = whole(Plan(tuple(SitePlan(site.name, None) for site in sites))) if folds(loaded) else None
    found = search(layers_now, refine, measure, clocked.original_ms, options.speedup, options.ranks, folded)
    clocked.stopwatch.save()
    chosen = plan(found.layers, found.chosen)
    milliseconds = {}
    for choice in chosen.sites:
        costs = clocked.costs(choice.name)
        milliseconds[choice.name] = (costs.times[ORIGINAL], costs.milliseconds((choice.form, choice.ranks)))
    return chosen, LatencyPlan(clocked, found, milliseconds)
