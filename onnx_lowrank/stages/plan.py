"""The stage that chooses the form and the ranks of every site, and the widths."""

from collections.abc import Mapping, Sequence
from functools import partial

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.options import FILLED_BLOCKS
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.plan.importance import EQUAL, Importance
from onnx_lowrank.plan.layer_costs import MacsOfLayers
from onnx_lowrank.plan.outlook import Outlook
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.choices import choose, layers_to_choose
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.kept_weights import kept_weights
from onnx_lowrank.stages.left_alone import no_form_takes
from onnx_lowrank.stages.paced import plan_by_clock
from onnx_lowrank.stages.plan_widths import WidthPlanner
from onnx_lowrank.stages.planned import Planned, planned_macs
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.rank_blocks import within_reach
from onnx_lowrank.stages.run import Run


def plan(
    run: Run, basis: Basis, energies: Mapping[str, Mapping[FormKind, Energies]], importance: Importance = EQUAL
) -> Planned:
    """Choose forms, ranks and widths, or take those of the user.

    Parameters
    ----------
    run
        The surroundings.
    basis
        The layers, the terms of the plan, and what the profile found.
    energies
        The log-energies that every form keeps of the sites that it takes, by site name, already weighed.
    importance
        How they were weighed, for the widths and the report.

    Raises
    ------
    TargetError
        If no choice reaches the speedup.
    """
    counted, reach = basis.counted, basis.reach
    with run.stage("plan"):
        by_clock = outlook = None
        if reach.user_plan:
            chosen = reach.user_plan
        else:
            if reach.clocked:
                chosen, by_clock = plan_by_clock(run, basis, energies, importance)
            else:
                all_macs = sum(counted.macs.aimed_at.values())
                chosen = plan_macs(run, basis, energies, importance)
                lost = None
                if chosen.widths:
                    lost = partial(width_planner(basis, energies, importance).lost, ranks=run.options.ranks)
                layers = layers_to_choose(energies, counted, reach.multiple)
                outlook = Outlook(layers, all_macs, run.options.speedup, run.options.ranks, lost)
            chosen = chosen.ordered(counted.shapes)
        for line in kept_weights(reach.deployment.network, counted, chosen):
            run.warn(line)
    return Planned(chosen, planned_macs(chosen, counted.shapes, run.forms), by_clock, outlook, importance)


def plan_macs(
    run: Run, basis: Basis, energies: Mapping[str, Mapping[FormKind, Energies]], importance: Importance
) -> Plan:
    """Choose forms, ranks and widths for a speedup in MACs; the parameters are those of ``plan``.

    Raises
    ------
    TargetError
        If no choice reaches the speedup.
    """
    counted, multiple, options = basis.counted, basis.reach.multiple, run.options
    if basis.widths.sets:
        planners = [width_planner(basis, energies, importance)]
        if options.resolved_rank_multiple == FILLED_BLOCKS:
            # Narrower blocks may come closer to the speedup.
            narrower = (each for each in within_reach(run, counted, basis.reach.hidden) if each.block < multiple.block)
            planners += [
                WidthPlanner(counted, basis.widths, energies, importance, each, _macs(counted))
                for each in narrower
                if each.least == 0
            ]
        close = (each for each in planners if each.comes_close(options.speedup, options.ranks))
        found = next(close, planners[0]).plan(options.speedup, options.ranks)
        if found is not None:
            return found
    layers = layers_to_choose(energies, counted, multiple)
    return choose(layers, sum(counted.macs.aimed_at.values()), options.speedup, options.ranks)


def width_planner(
    basis: Basis, energies: Mapping[str, Mapping[FormKind, Energies]], importance: Importance
) -> WidthPlanner:
    """Return what plans widths and ranks together; the parameters are those of ``plan``."""
    counted = basis.counted
    return WidthPlanner(counted, basis.widths, energies, importance, basis.reach.multiple, _macs(counted))


def _macs(counted: Counted) -> MacsOfLayers:
    return MacsOfLayers(sum(counted.macs.aimed_at.values()))


def why_left_alone(
    shapes: Sequence[ConvShape], kinds: FormTable, multiple: RankMultiple, *, given: str | None, slower: bool = False
) -> str:
    """Return the reason why a site is not factorised.

    Parameters
    ----------
    shapes
        The geometries of the site and of all that share its weight.
    kinds
        The forms that were allowed.
    multiple
        The numbers that ranks are multiples of.
    given
        Why nothing was planned; None where a plan was sought.
    slower
        Whether no choice was measured to be faster.
    """
    if given:
        return given
    if not kinds.kinds:
        return "left whole by --width only"
    if not any(kind.takes(shapes[0]) for kind in kinds):
        return f"left alone: {no_form_takes(kinds)}"
    if slower:
        return "left alone: measured slower in every form"
    if lowest_macs(shapes, kinds, multiple) == sum(shape.macs for shape in shapes):
        narrowest = multiple.narrowest
        rank = "rank" if narrowest == 1 else f"rank that is a multiple of {narrowest}"
        return f"left alone: no {rank} saves MACs here"
    return "left alone: the planner reaches the speedup without it"
