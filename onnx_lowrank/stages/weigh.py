"""The stage that weighs the energies of all layers by what their errors do to the outputs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.options import AUTO
from onnx_lowrank.plan.importance import EQUAL, Importance
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.choices import site_energies
from onnx_lowrank.stages.come_close import ranks_reach
from onnx_lowrank.stages.plan_widths import weight_name
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.rehearsal import Rehearsal, enough_samples
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.trials import MOST_TRIALS, Terms, Trials, settle, weighed_energies
from onnx_lowrank.stages.widths import NO_WIDTHS, Widths


@dataclass(frozen=True)
class Weighed:
    """The energies as the planner is to see them.

    Attributes
    ----------
    energies
        The log-energies that every form is expected to keep of the sites that it takes, by site name, weighed; nothing
        where the user gave a plan.
    importance
        The weights, with the rehearsals that chose their exponent.
    widths
        The sets of channels of which the plan may remove some; none where ranks alone did better.
    """

    energies: Mapping[str, Mapping[FormKind, Energies]]
    importance: Importance
    widths: Widths


def weigh(run: Run, basis: Basis) -> Weighed:
    """Measure what the error of each layer does to the outputs, and how much of it a plan should believe.

    Where the user gave a plan, wants the plan of the energies or looks at no data, or where there is little to choose
    or to choose from, all layers weigh the same. A plan of the user is rehearsed all the same, where that decides
    whether it is refined.
    """
    if basis.reach.user_plan:
        return Weighed({}, _of_user_plan(run, basis, basis.reach.user_plan), basis.widths)
    # Where no rehearsal shows that fewer channels pay, they go only if ranks alone do not reach the speedup.
    by_clock = basis.reach.clocked is not None  # then the stage that plans compares both
    unsure = NO_WIDTHS if not by_clock and ranks_reach(run, basis) else basis.widths
    with run.times.stage("weigh"):
        energies = site_energies(basis.counted, basis.profiled, run.kinds)
        if run.options.objective == "energies" or run.options.solver == "weights":
            return Weighed(energies, EQUAL, unsure)
        terms = settle(basis, energies)
        several = sum(len(layer.costs) > 1 for layer in terms.layers) + len(basis.widths.sets) > 1
        # Made-up samples say little of what an error does to real ones.
        made_up = basis.sampled.source.synthetic
        if made_up or not several or not enough_samples(basis.sampled.sampling):
            return Weighed(energies, EQUAL, unsure)
        run.progress("weigh", 0, MOST_TRIALS + 2)
        rehearsal = Rehearsal(run, basis)
        importance = measure_importance(rehearsal, terms, run.options.speedup)
        run.progress("weigh", 1, MOST_TRIALS + 2)
        chosen, widths = Trials(run, rehearsal, terms, importance).best()
        run.progress("weigh", MOST_TRIALS + 2, MOST_TRIALS + 2)
    return Weighed(weighed_energies(energies, chosen), chosen, widths)


def _of_user_plan(run: Run, basis: Basis, plan: Plan) -> Importance:
    """Return equal weights with the rehearsal of the plan."""
    options, sampled = run.options, basis.sampled
    told_by_energies = options.objective == "energies" or options.solver == "weights" or options.symmetric
    if options.refine != AUTO or told_by_energies:
        return EQUAL
    if (
        sampled.source.synthetic
        or not enough_samples(sampled.sampling)
        or not (plan.widths or any(s.form for s in plan.sites))
    ):
        return EQUAL
    with run.times.stage("weigh"):
        return replace(EQUAL, trials={EQUAL.exponent: Rehearsal(run, basis).score(plan).error})


def measure_importance(rehearsal: Rehearsal, terms: Terms, speedup: float) -> Importance:
    """Replace every layer alone, at about the cost that the speedup leaves it, and look at the outputs.

    Channels become fewer alone as well, each set of them at one width.
    """
    layers = terms.layers
    levels = {layer.name: _level(layer, speedup) for layer in layers if len(layer.costs) > 1}
    plans = (layer.site_plans(levels.get(layer.name, len(layer.costs) - 1)) for layer in layers)
    plan = Plan(tuple(choice for choices in plans for choice in choices))
    losses = {
        layer.name: float(-np.expm1(layer.log_energies[levels[layer.name]])) for layer in layers if layer.name in levels
    }
    losses |= {weight_name(one.name): one.curve.error(one.probe.width) for one in terms.basis.widths.sets}
    return Importance.measured(rehearsal.alone(plan), losses)


def _level(layer: LayerChoices, speedup: float) -> int:
    """Return the costliest choice that makes a layer as much cheaper as the whole network, or its cheapest one."""
    affordable = int(np.searchsorted(layer.costs[:-1], layer.untouched / speedup, side="right")) - 1
    return max(0, affordable)
