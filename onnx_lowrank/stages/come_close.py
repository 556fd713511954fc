"""Narrower blocks for ranks to fill, where no plan with wider ones comes close to the speedup.

A network of few layers or channels has so few choices in wide blocks that its plan may go far beyond what was asked,
and lose more than it must. The energies are known by now, so the plans themselves tell.
"""

from dataclasses import replace

from onnx_lowrank.errors import TargetError
from onnx_lowrank.options import FILLED_BLOCKS
from onnx_lowrank.plan.allocate import TOLERANCE, budget_for
from onnx_lowrank.stages.choices import choose, layers_to_choose, site_energies
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.planned import planned_macs
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.rank_blocks import lowest_macs_of_all, within_reach
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.widths import NO_WIDTHS


def come_close(run: Run, counted: Counted, reach: Reach, profiled: Profiled) -> Reach:
    """Return the terms of the plan with the widest blocks whose plan is as close to the speedup as promised.

    Where no plan comes close, no rank is left out. Ranks below one block are no help: they would bring the MACs close,
    and lose much of a layer for it.
    """
    if run.options.resolved_rank_multiple != FILLED_BLOCKS or reach.user_plan or reach.clocked:
        return reach
    with run.times.stage("plan"):
        energies, all_macs = site_energies(counted, profiled, run.kinds), sum(counted.macs.aimed_at.values())
        speedup = run.options.speedup
        budget = budget_for(all_macs, speedup)
        narrower = (each for each in within_reach(run, counted) if each.block < reach.multiple.block)
        for multiple in (reach.multiple, *narrower):
            try:
                plan = choose(layers_to_choose(energies, counted, multiple), all_macs, speedup, run.options.ranks)
            except TargetError:  # ranks alone do not reach it, and widths fill whatever blocks there are
                return reach
            macs = planned_macs(plan, counted.shapes, run.forms)
            saved = sum(counted.shapes[name].macs - cost for name, cost in macs.items())
            if budget - (all_macs - saved) <= TOLERANCE * budget:
                break
    return replace(reach, multiple=multiple)


def blocks_for(run: Run, basis: Basis) -> Reach:
    """Return the terms of the plan with the blocks that suit the speedup, where their width is left to the tool."""
    reach, counted = basis.reach, basis.counted
    if run.options.resolved_rank_multiple != FILLED_BLOCKS or reach.user_plan or reach.clocked:
        return reach
    reach = replace(reach, multiple=next(within_reach(run, counted, reach.hidden)))
    return come_close(run, counted, reach, basis.profiled)


def ranks_alone(run: Run, basis: Basis) -> Basis:
    """Return what a plan rests on that keeps all channels, with the blocks that suit ranks alone."""
    if not basis.reach.hidden:
        return basis
    basis = replace(basis, reach=replace(basis.reach, hidden=()), widths=NO_WIDTHS)
    return replace(basis, reach=blocks_for(run, basis))


def ranks_reach(run: Run, basis: Basis) -> bool:
    """Whether a plan that keeps all channels can have the speedup."""
    counted, multiple = basis.counted, ranks_alone(run, basis).reach.multiple
    budget = budget_for(sum(counted.macs.aimed_at.values()), run.options.speedup)
    return lowest_macs_of_all(run, counted, multiple, ()) <= budget
