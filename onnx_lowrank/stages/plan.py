"""Plan: which form and which ranks every site gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.latency.by_clock import LatencyPlan, choose_by_clock
from onnx_lowrank.options import Options
from onnx_lowrank.plan.allocate import allocate
from onnx_lowrank.plan.cost import Costs, lowest_macs
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.runtime import blas_threads
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.run import Run


@dataclass(frozen=True)
class Planned:
    """The choices for all sites.

    Attributes
    ----------
    plan
        Forms and ranks, in the order of the sites.
    macs
        The MACs of one sample that every site takes as planned, by name.
    by_clock
        How the plan came about where the clock made it; else None.
    """

    plan: Plan
    macs: Mapping[str, int]
    by_clock: LatencyPlan | None = None


@blas_threads.one_for_scipy()
def plan(run: Run, counted: Counted, reach: Reach, profiled: Profiled) -> Planned:
    """Choose forms and ranks, or take the user's.

    Raises
    ------
    TargetError
        Where no choice reaches the speedup.
    """
    with run.times.stage("plan"):
        by_clock = None
        if reach.given:
            chosen = reach.given
        else:
            energies = site_energies(counted, profiled, run.kinds)
            choices_at = partial(layers_to_choose, energies, counted.shapes, reach.multiple)
            if reach.clocked:
                chosen, by_clock = choose_by_clock(reach.clocked, profiled.kernels, choices_at)
            else:
                chosen = choose(choices_at(), sum(counted.macs.aimed_at.values()), run.options)
        run.progress("plan", 1, 1)
    return Planned(chosen, planned_macs(chosen, counted.shapes, run.forms), by_clock)


def site_energies(counted: Counted, profiled: Profiled, kinds: FormTable) -> dict[str, dict[FormKind, Energies]]:
    """What every kind of form that takes a site is expected to keep of it, by site name."""

    def energies(site: ConvSite) -> dict[FormKind, Energies]:
        evidence = site_evidence(site, profiled)
        return {kind: kind.log_energies(evidence) for kind in kinds if kind.takes(counted.shapes[site.name])}

    return {site.name: energies(site) for site in counted.sites}


def site_evidence(site: ConvSite, profiled: Profiled) -> Evidence:
    """What is known of a site before its form is chosen."""
    kernels, prepared, target = tuple(site.kernels), profiled.kernels[site.name], profiled.targets.get(site.name)
    if target is None:
        return Evidence(kernels, prepared)
    return Evidence(kernels, prepared, target.rows, target.responses)


def layers_to_choose(
    energies: Mapping[str, Mapping[FormKind, Energies]],
    shapes: Mapping[str, ConvShape],
    multiple: int,
    costs: Mapping[str, Costs] | None = None,
) -> list[LayerChoices]:
    """The choices of all sites, at MACs, or at ``costs`` by site name."""
    return [
        pareto_front(name, shapes[name], expected, multiple, costs[name] if costs else None)
        for name, expected in energies.items()
    ]


def choose(layers: Sequence[LayerChoices], all_macs: int, options: Options) -> Plan:
    """The forms and ranks of all sites for the requested speedup of ``all_macs``.

    Raises
    ------
    TargetError
        Where no choice reaches it.
    """
    others = all_macs - sum(layer.untouched for layer in layers)
    chosen = allocate(layers, others, options.speedup, options.ranks)
    return Plan(tuple(SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)))


def planned_macs(plan: Plan, shapes: Mapping[str, ConvShape], forms: FormTable) -> dict[str, int]:
    """The MACs of one sample that every site takes as planned, by name."""

    def macs(choice: SitePlan) -> int:
        shape = shapes[choice.name]
        return forms[choice.form].cost(shape, choice.ranks) if choice.form else shape.macs

    return {choice.name: macs(choice) for choice in plan.sites}


def why_left_alone(shape: ConvShape, kinds: FormTable, multiple: int, *, given: bool, slower: bool = False) -> str:
    """Why a site is not factorised.

    Parameters
    ----------
    shape
        Its geometry.
    kinds
        The kinds of form that were allowed.
    multiple
        The number that every rank is a multiple of.
    given
        Whether the plan came from the user.
    slower
        Whether nothing was measured to be faster.
    """
    if given:
        return "left alone by the given plan"
    if not any(kind.takes(shape) for kind in kinds):
        needs = " or ".join(dict.fromkeys(kind.needs for kind in kinds))
        return f"left alone: the form {' or '.join(kinds.names)} needs {needs}"
    if slower:
        return "left alone: measured slower in every form"
    if lowest_macs(shape, kinds, multiple) == shape.macs:
        rank = "rank" if multiple == 1 else f"rank that is a multiple of {multiple}"
        return f"left alone: no {rank} saves MACs here"
    return "left alone: the planner reaches the speedup without it"
