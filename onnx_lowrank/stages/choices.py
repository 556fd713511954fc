"""The choices that the planner has for the layers: forms and ranks, with costs and energies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.plan.allocate import allocate
from onnx_lowrank.plan.cost import Costs, MacsCosts, together
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.by_site import by_site
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.families import family_evidence
from onnx_lowrank.stages.profile import Profiled


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
    multiple: RankMultiple,
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
        The numbers that ranks are multiples of.
    costs
        The costs by site name; None stands for their MACs.
    """

    def choices(family: Family) -> LayerChoices:
        shapes = counted.shapes_of(family)
        own = [costs[name] for name in family.names] if costs else [MacsCosts(shape) for shape in shapes]
        return family_choices(family, shapes[0], energies[family.name], multiple, own)

    return [choices(family) for family in counted.families]


def family_choices(
    family: Family,
    shape: ConvShape,
    energies: Mapping[FormKind, Energies],
    multiple: RankMultiple,
    costs: Sequence[Costs],
) -> LayerChoices:
    """Return the choices of the sites of one weight.

    Parameters
    ----------
    family
        The sites.
    shape
        The geometry of the first one.
    energies
        The log-energies that every form keeps.
    multiple
        The numbers that ranks are multiples of.
    costs
        The costs of every member.
    """
    front = pareto_front(family.name, shape, energies, multiple, together(costs))
    return replace(front, sharing=family.names[1:], log_energies=family.depth * front.log_energies)


def choose(layers: Sequence[LayerChoices], all_macs: int, speedup: float, ranks: str) -> Plan:
    """Return the forms and ranks of all sites that reduce ``all_macs`` by a speedup.

    ``ranks`` is the name of the search.

    Raises
    ------
    TargetError
        If no choice reaches it.
    """
    fixed_macs = all_macs - sum(layer.untouched for layer in layers)
    chosen = allocate(layers, fixed_macs, speedup, ranks)
    return Plan(tuple(plan for x, i in zip(layers, chosen, strict=True) for plan in x.site_plans(i)))
