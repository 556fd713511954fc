"""The stage that chooses the form and the ranks of every site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.preparation import PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.latency.by_clock import LatencyPlan, choose_by_clock
from onnx_lowrank.options import Options
from onnx_lowrank.plan.allocate import allocate
from onnx_lowrank.plan.cost import Costs, MacsCosts, lowest_macs, together
from onnx_lowrank.plan.importance import EQUAL, Importance
from onnx_lowrank.plan.outlook import Outlook
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.by_site import by_site
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.families import family_evidence
from onnx_lowrank.stages.kept_weights import kept_weights
from onnx_lowrank.stages.left_alone import no_form_takes
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.run import Run


@dataclass(frozen=True)
class Planned:
    """The choices for all sites.

    Attributes
    ----------
    plan
        The forms and ranks, in the order of the sites.
    macs
        The MACs of one sample that every site takes as planned, by name.
    by_clock
        The search behind a plan by the clock; None for any other plan.
    outlook
        What milder speedups are estimated to do, where the plan counts MACs; None for any other plan.
    importance
        How the layers were weighed.
    """

    plan: Plan
    macs: Mapping[str, int]
    by_clock: LatencyPlan | None = None
    outlook: Outlook | None = None
    importance: Importance = EQUAL


def plan(
    run: Run,
    counted: Counted,
    reach: Reach,
    kernels: Mapping[str, tuple[PreparedKernel, ...]],
    energies: Mapping[str, Mapping[FormKind, Energies]],
    importance: Importance = EQUAL,
) -> Planned:
    """Choose forms and ranks, or take those of the user.

    Parameters
    ----------
    run
        The surroundings.
    counted, reach
        The layers, and the terms of the plan.
    kernels
        What the forms have derived from the kernels, by site name.
    energies
        The log-energies that every form keeps of the sites that it takes, by site name, already weighed.
    importance
        How they were weighed, for the report.

    Raises
    ------
    TargetError
        If no choice reaches the speedup.
    """
    with run.stage("plan"):
        by_clock = outlook = None
        if reach.user_plan:
            chosen = reach.user_plan
        else:
            choices_at = partial(layers_to_choose, energies, counted, reach.multiple)
            if reach.clocked:
                chosen, by_clock = choose_by_clock(reach.clocked, kernels, choices_at)
            else:
                layers, all_macs = choices_at(), sum(counted.macs.aimed_at.values())
                chosen = choose(layers, all_macs, run.options)
                outlook = Outlook(layers, all_macs, run.options.speedup, run.options.ranks)
            chosen = chosen.ordered(counted.shapes)
        for line in kept_weights(reach.deployment.network, counted, chosen):
            run.warn(line)
    return Planned(chosen, planned_macs(chosen, counted.shapes, run.forms), by_clock, outlook, importance)


def site_energies(counted: Counted, profiled: Profiled, kinds: FormTable) -> dict[str, dict[FormKind, Energies]]:
    """Return the energies that every form is expected to keep of the sites that it takes, by the name of the family."""

    def energies(family: Family) -> dict[FormKind, Energies]:
        evidence = family_evidence(family, profiled)
        prepared = profiled.kernels[family.name][0]
        return {
            kind: kind.log_energies(evidence)
            for kind in kinds
            if kind.takes(counted.shapes[family.name]) and (kind.preparation is None or kind.preparation in prepared)
        }

    own = {family.name: family for family in counted.families}
    firsts = [family.members[0] for family in counted.families]
    found = by_site(lambda site: energies(own[site.name]), firsts, counted.shapes, kinds)
    return dict(zip(own, found, strict=True))


def layers_to_choose(
    energies: Mapping[str, Mapping[FormKind, Energies]],
    counted: Counted,
    multiple: int,
    costs: Mapping[str, Costs] | None = None,
) -> list[LayerChoices]:
    """Return the choices of all families of sites.

    Parameters
    ----------
    energies
        See ``site_energies``.
    counted
        The families, and the geometry of their members.
    multiple
        The number that every rank is a multiple of.
    costs
        The costs by site name; None stands for their MACs.
    """

    def choices(family: Family) -> LayerChoices:
        shapes = counted.shapes_of(family)
        own = [costs[name] for name in family.names] if costs else [MacsCosts(shape) for shape in shapes]
        front = pareto_front(family.name, shapes[0], energies[family.name], multiple, together(own))
        return replace(front, sharing=family.names[1:], log_energies=family.depth * front.log_energies)

    return [choices(family) for family in counted.families]


def choose(layers: Sequence[LayerChoices], all_macs: int, options: Options) -> Plan:
    """Return the forms and ranks of all sites that reduce ``all_macs`` by the requested speedup.

    Raises
    ------
    TargetError
        If no choice reaches it.
    """
    fixed_macs = all_macs - sum(layer.untouched for layer in layers)
    chosen = allocate(layers, fixed_macs, options.speedup, options.ranks)
    return Plan(tuple(plan for x, i in zip(layers, chosen, strict=True) for plan in x.site_plans(i)))


def planned_macs(plan: Plan, shapes: Mapping[str, ConvShape], forms: FormTable) -> dict[str, int]:
    """Return the MACs of one sample that every site takes as planned, by name."""

    def macs(choice: SitePlan) -> int:
        shape = shapes[choice.name]
        return forms[choice.form].cost(shape, choice.ranks) if choice.form else shape.macs

    return {choice.name: macs(choice) for choice in plan.sites}


def why_left_alone(
    shapes: Sequence[ConvShape], kinds: FormTable, multiple: int, *, user_plan: bool, slower: bool = False
) -> str:
    """Return the reason why a site is not factorised.

    Parameters
    ----------
    shapes
        The geometries of the site and of all that share its weight.
    kinds
        The forms that were allowed.
    multiple
        The number that every rank is a multiple of.
    user_plan
        Whether the plan came from the user.
    slower
        Whether no choice was measured to be faster.
    """
    if user_plan:
        return "left alone by the given plan"
    if not any(kind.takes(shapes[0]) for kind in kinds):
        return f"left alone: {no_form_takes(kinds)}"
    if slower:
        return "left alone: measured slower in every form"
    if lowest_macs(shapes, kinds, multiple) == sum(shape.macs for shape in shapes):
        rank = "rank" if multiple == 1 else f"rank that is a multiple of {multiple}"
        return f"left alone: no {rank} saves MACs here"
    return "left alone: the planner reaches the speedup without it"
