"""The stage that refuses before the long work what cannot succeed.

A plan of the user is fitted to the model. Without one, the rank multiple is settled, the layers are measured where the
plan is made by the clock, and a speedup that no choice of ranks reaches is refused.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.factorise.forms.kind import affordable, worthwhile
from onnx_lowrank.factorise.forms.rank_multiple import EVERY_RANK, RankMultiple
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.find.sites import Skip
from onnx_lowrank.latency.by_clock import check_latency_reach
from onnx_lowrank.latency.clocked import Clocked, clock_layers, rank_multiple
from onnx_lowrank.latency.deployment import Deployment
from onnx_lowrank.latency.in_integers import IntegerGain
from onnx_lowrank.options import AUTO, FILLED_BLOCKS
from onnx_lowrank.plan.allocate import budget_for, check_reach
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.hidden_sets import HiddenSet, hidden_sets
from onnx_lowrank.stages.left_alone import left_alone, no_form_takes
from onnx_lowrank.stages.rank_blocks import lowest_macs_of_all, within_reach
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.room import statistics_room
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled


@dataclass(frozen=True)
class Reach:
    """The terms of the plan that are settled before anything is profiled.

    Attributes
    ----------
    deployment
        The model as the stopwatch sees it.
    multiple
        The numbers that ranks are multiples of.
    user_plan
        The user's plan, fitted to the sites of this model; None where the planner is to choose.
    clocked
        The times of the layers where the planner chooses by the clock; else None.
    hidden
        The sets of channels of which the plan may remove some.
    integers
        What integers give by the clock, which need not be planned; None for a plan by MACs, or in floating point.
    """

    deployment: Deployment
    multiple: RankMultiple = EVERY_RANK
    user_plan: Plan | None = None
    clocked: Clocked | None = None
    hidden: tuple[HiddenSet, ...] = ()
    integers: IntegerGain | None = None


def reach(run: Run, read: Read, sampled: Sampled, counted: Counted) -> Reach:
    """Settle the terms of the plan, and refuse those that cannot be met.

    Raises
    ------
    DataError
        If the user's plan does not fit the model, or the latency table cannot be read.
    TargetError
        If no choice reaches the speedup; the message states the highest that can be reached.
    """
    options = run.options
    deployment = deploy(run, read, sampled, counted)
    if run.request.plan:
        skipped = {skip.name: skip.reason for skip in counted.skipped}
        fitted = run.request.plan.fitted(counted.shapes, skipped, run.forms)
        hidden = hidden_sets(run, read, counted) if fitted.widths else ()
        return Reach(deployment, user_plan=fitted, hidden=hidden)
    untouched = Plan(tuple(SitePlan(site.name, None) for site in counted.sites))
    if run.rounds_alone:
        return Reach(deployment, user_plan=untouched)
    if options.quantize and options.target == "latency":
        with run.times.stage("measure"):
            integers = IntegerGain.measured(read.loaded.proto, deployment.feeds, options)
        if integers.left <= 1:
            return Reach(deployment, user_plan=untouched)
        with integers.explaining():
            reached = _reach(run.asking(integers.left), read, sampled, counted)
        return replace(reached, integers=integers)
    return _reach(run, read, sampled, counted)


def _reach(run: Run, read: Read, sampled: Sampled, counted: Counted) -> Reach:
    """Settle the terms of a plan that is to be sought."""
    options, deployment = run.options, deploy(run, read, sampled, counted)
    with run.times.stage("measure") if options.needs_measurement else contextlib.nullcontext():
        multiple = rank_multiple(deployment, run.progress)
        if options.target == "latency":
            clocked = clock_layers(deployment, run.kinds, multiple, run.progress)
            hidden = hidden_sets(run, read, counted)
            if not hidden:  # else only whole plans tell what is out of reach
                with left_alone(counted.skipped, counted.macs).explaining():
                    check_latency_reach(clocked, run.kinds)
            return Reach(deployment, multiple, clocked=clocked, hidden=hidden)
        hidden = hidden_sets(run, read, counted)
        if options.resolved_rank_multiple == FILLED_BLOCKS:
            multiple = next(within_reach(run, counted, hidden))
        check_macs(run, counted, multiple, hidden)
    return Reach(deployment, multiple, hidden=hidden)


def check_macs(run: Run, counted: Counted, multiple: RankMultiple, hidden: Sequence[HiddenSet] = ()) -> None:
    """Refuse a speedup that the MACs of this network cannot have.

    Raises
    ------
    TargetError
        If no choice reaches the speedup; the message states what is left alone, how much of the cost that is, and why.
    """
    before, speedup = sum(counted.macs.aimed_at.values()), run.options.speedup
    lowest = lowest_macs_of_all(run, counted, multiple, hidden)
    stuck = [
        Skip(site.name, why, site.output)
        for family in counted.families
        if (why := why_stuck(run, counted, family, multiple))
        for site in family.members
    ]
    left = left_alone((*counted.skipped, *stuck), counted.macs)
    ways_out = left.ways_out(lowest - budget_for(before, speedup))
    if any(worthwhile(run.forms, counted.shapes[skip.name]) for skip in stuck) and run.options.form != AUTO:
        ways_out = (*ways_out, "allow other forms with --form auto")
    with left.explaining():
        check_reach(before, lowest, speedup, multiple.narrowest, ways_out)


def why_stuck(run: Run, counted: Counted, family: Family, multiple: RankMultiple) -> str | None:
    """Return why no choice makes the sites of one weight cheaper; None if some choice does."""
    shapes = counted.shapes_of(family)
    fitting = affordable(run.kinds, shapes[0], statistics_room(run.options.memory))
    if lowest_macs(shapes, fitting, multiple) < sum(shape.macs for shape in shapes):
        return None
    if not run.kinds.kinds:
        return "left whole by --width only"
    if not any(kind.takes(shapes[0]) for kind in run.kinds):
        return no_form_takes(run.kinds)
    return "no rank saves MACs" if fitting else "its statistics take too much memory (--memory)"


def clock(run: Run, read: Read, sampled: Sampled, counted: Counted) -> Clocked:
    """Measure everything that a plan by the clock asks for, without planning.

    Raises
    ------
    EnvironmentFault
        If the latency table cannot be written.
    """
    deployment = deploy(run, read, sampled, counted)
    return clock_layers(deployment, run.kinds, rank_multiple(deployment, run.progress), run.progress)


def deploy(run: Run, read: Read, sampled: Sampled, counted: Counted) -> Deployment:
    """Return the model as the stopwatch sees it."""
    return Deployment(
        loaded=read.loaded,
        network=read.network,
        sites=counted.sites,
        families=counted.families,
        shapes=counted.shapes,
        macs=counted.macs,
        sampling=sampled.sampling,
        options=run.options,
        forms=run.forms,
    )
