"""Plans by the clock in which layers lose channels: each is tried as a whole model, as its layers' times are estimates.

Such a plan competes with the one that ranks alone give. The better one is that whose rehearsal changes the outputs
less.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.latency.by_clock import LatencyPlan, choose_by_clock, untouched_plan
from onnx_lowrank.latency.clocked import Clocked
from onnx_lowrank.latency.pace import PaceSearch
from onnx_lowrank.latency.proposals import WholeTime
from onnx_lowrank.latency.table import ORIGINAL
from onnx_lowrank.latency.time_costs import NANOSECONDS
from onnx_lowrank.latency.trial import WholeTrials, factors_from_weights
from onnx_lowrank.plan.importance import Importance
from onnx_lowrank.plan.layer_costs import TimesOfLayers
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import NOBODY
from onnx_lowrank.stages.choices import layers_to_choose
from onnx_lowrank.stages.narrow import narrow
from onnx_lowrank.stages.plan_widths import WidthPlanner
from onnx_lowrank.stages.planned import Planned, planned_macs
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.rehearsal import Rehearsal, enough_samples
from onnx_lowrank.stages.resources import StageTimes
from onnx_lowrank.stages.run import Run

ByName = Mapping[str, Mapping[FormKind, Energies]]


@dataclass(frozen=True)
class Paced:
    """How a plan with widths was timed; see ``latency.by_clock.Outcome``."""

    from_layers_ms: float
    predicted_ms: float
    correction: float
    measured: WholeTime | None
    rounds: int


@dataclass(frozen=True)
class _Tried:
    """The time of a whole model, and about the milliseconds of every site (untouched, as planned)."""

    time: WholeTime
    milliseconds: Mapping[str, tuple[float, float]]


def plan_by_clock(run: Run, basis: Basis, energies: ByName, importance: Importance) -> tuple[Plan, LatencyPlan]:
    """Return the plan for a speedup by the clock, with widths where they serve the outputs better than ranks alone.

    The parameters are those of ``stages.plan.plan``.

    Raises
    ------
    TargetError
        If no choice reaches the speedup; the message states the largest ratio that was reached.
    """
    clocked = basis.reach.clocked
    assert clocked is not None
    choices_at = partial(layers_to_choose, energies, basis.counted, basis.reach.multiple)
    ranks_alone = partial(choose_by_clock, clocked, basis.profiled.kernels, choices_at)
    if not basis.widths.sets or clocked.stopwatch.open_session is None:
        return ranks_alone()
    found: list[tuple[Plan, LatencyPlan]] = []
    with contextlib.suppress(TargetError):
        found.append(ranks_alone())
        if not any(site.form for site in found[0][0].sites):  # folded normalisations are enough
            return found[0]
    try:
        found.append(with_widths(run, basis, energies, importance))
    except TargetError:
        if not found:
            raise
    sampled = basis.sampled
    if len(found) < 2 or sampled.source.synthetic or not enough_samples(sampled.sampling):
        return found[0]
    rehearsal = Rehearsal(run, basis)
    errors = [rehearsal.score(plan).error for plan, _ in found]
    return found[errors.index(min(errors))]


def with_widths(run: Run, basis: Basis, energies: ByName, importance: Importance) -> tuple[Plan, LatencyPlan]:
    """Return the plan with widths that saves the least of those that are confirmed to be as fast as was asked for.

    Raises
    ------
    TargetError
        If none is; the message states the largest ratio that was reached.
    """
    clocked, counted = basis.reach.clocked, basis.counted
    assert clocked is not None
    total = round(NANOSECONDS * clocked.original_ms)
    times = {site.name: clocked.costs(site.name) for site in counted.sites}
    costs = TimesOfLayers(total, counted.shapes, times)
    planner = WidthPlanner(counted, basis.widths, energies, importance, basis.reach.multiple, costs)
    as_it_is = _tried(run, basis, clocked, untouched_plan(clocked)).time if basis.read.network.folded else None
    folded = as_it_is.ratio if as_it_is else 1.0
    search = PaceSearch(run.options.speedup, 1 - 1 / planner.most, folded)
    best: tuple[Plan, LatencyPlan] | None = None
    while (saving := search.propose()) is not None:
        plan = planner.plan(1 / (1 - saving), run.options.ranks)
        if plan is None:
            search.no_plan(saving)
            continue
        tried, correction = _tried(run, basis, clocked, plan.ordered(counted.shapes)), search.correction
        if search.observe(saving, tried.time):
            promised, expected = (clocked.original_ms * (1 / folded - share * saving) for share in (1.0, correction))
            paced = Paced(promised, expected, search.correction, tried.time, search.rounds)
            best = plan.ordered(counted.shapes), LatencyPlan(clocked, paced, tried.milliseconds)
    if best is None:
        raise search.out_of_reach()
    return best


def _tried(run: Run, basis: Basis, clocked: Clocked, plan: Plan) -> _Tried:
    """Time the whole model as planned, with the channels that stay and factors that nobody solved for."""
    quiet = replace(run, listener=NOBODY, times=StageTimes(), warnings=[])
    shapes = basis.counted.shapes
    with contextlib.ExitStack() as stack:
        prepared = narrow(quiet, basis.with_plan(Planned(plan, planned_macs(plan, shapes, run.forms))), stack)
        counted, planned = prepared.counted, prepared.planned
        deployment = replace(
            clocked.deployment,
            network=prepared.read.network,
            sites=counted.sites,
            families=counted.families,
            shapes=counted.shapes,
            macs=counted.macs,
        )
        factors = factors_from_weights(prepared.profiled.kernels, run.forms)
        stopwatch = clocked.stopwatch
        assert stopwatch.open_session is not None
        trials = WholeTrials(deployment, factors, stopwatch.open_session, stopwatch.measure_models)
        milliseconds = {}
        for name, shape in shapes.items():
            whole = clocked.costs(name).times[ORIGINAL]
            milliseconds[name] = whole, whole * planned.macs[name] / shape.macs
        return _Tried(trials.measure(planned.plan), milliseconds)
