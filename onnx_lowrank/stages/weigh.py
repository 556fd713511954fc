"""The stage that weighs the energies of all layers by what their errors do to the outputs."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.options import AUTO
from onnx_lowrank.plan.allocate import SEARCHES, budget_for
from onnx_lowrank.plan.importance import EQUAL, Importance
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.choices import layers_to_choose, site_energies
from onnx_lowrank.stages.come_close import ranks_alone, ranks_reach
from onnx_lowrank.stages.plan import plan_macs
from onnx_lowrank.stages.plan_widths import weight_name
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.rehearsal import Rehearsal, enough_samples
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.scoring import Score
from onnx_lowrank.stages.widths import NO_WIDTHS, Widths

GAIN = 0.05
"""The share by which a plan's error has to be below that of the energies' plan, or the latter is taken."""

NEAR = 1.25
"""A plan whose error is more times that of the energies' plan is taken as a sign that no weights help."""

TRIALS = 3
"""The most plans that are rehearsed."""


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


@dataclass(frozen=True)
class Terms:
    """What the plans of rehearsals are made from.

    Attributes
    ----------
    basis
        The results of the stages up to the profile.
    energies
        The log-energies that every form keeps of the sites, by site name.
    layers
        The choices of every layer, at MACs or, for a plan by the clock, at the nanoseconds that are known so far.
    total
        The MACs of the whole network that the speedup is about, or its nanoseconds.
    """

    basis: Basis
    energies: Mapping[str, Mapping[FormKind, Energies]]
    layers: Sequence[LayerChoices]
    total: int


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
        run.progress("weigh", 0, TRIALS + 2)
        rehearsal = Rehearsal(run, basis)
        importance = measure_importance(rehearsal, terms, run.options.speedup)
        run.progress("weigh", 1, TRIALS + 2)
        trials = Trials(run, rehearsal, terms, importance)
        chosen = trials.best()
        run.progress("weigh", TRIALS + 2, TRIALS + 2)
    return Weighed(weighed_energies(energies, chosen), chosen, trials.widths)


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


def weighed_energies(
    energies: Mapping[str, Mapping[FormKind, Energies]], importance: Importance
) -> dict[str, dict[FormKind, Energies]]:
    """Return the log-energies of all forms of all layers as the planner is to see them."""
    return {
        name: {kind: importance.weighed(name, expected) for kind, expected in kinds.items()}
        for name, kinds in energies.items()
    }


def settle(basis: Basis, energies: Mapping[str, Mapping[FormKind, Energies]]) -> Terms:
    """Return the terms of the plans, for MACs or by the clock."""
    counted, clocked = basis.counted, basis.reach.clocked
    if clocked is None:
        layers = layers_to_choose(energies, counted, basis.reach.multiple)
        return Terms(basis, energies, layers, sum(counted.macs.aimed_at.values()))
    costs = {site.name: clocked.costs(site.name) for site in counted.sites}
    layers = layers_to_choose(energies, counted, basis.reach.multiple, costs)
    return Terms(basis, energies, layers, round(1e6 * clocked.original_ms))


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


class Trials:
    """Rehearsals of the plans that belong to several exponents.

    Parameters
    ----------
    run
        The surroundings, of which the options and the progress matter.
    rehearsal
        Scores the plans.
    terms
        What they are made from.
    importance
        The weights of the layers.
    """

    def __init__(self, run: Run, rehearsal: Rehearsal, terms: Terms, importance: Importance) -> None:
        self._run, self._rehearsal, self._terms, self._importance = run, rehearsal, terms, importance
        self._known: dict[Plan, Score] = {}
        self._scores: dict[float, Score] = {}

    def best(self) -> Importance:
        """Return the weights with the exponent of the best plan; it is 0 unless another one is clearly better.

        Where half of the weights' logarithm is better than nothing of it, all of it is tried as well, and where it is
        little worse, a quarter.
        """
        self._try(0.0)
        if self._run.options.target == "macs":
            self._settle_widths()
        self._try(0.5)
        if self._best:
            self._try(1.0)
        elif self._scores[0.5].error <= NEAR * self._scores[0.0].error:
            self._try(0.25)
        best = self._best if self._scores[self._best].clearly_below(self._scores[0.0], GAIN) else 0.0
        errors = {exponent: score.error for exponent, score in sorted(self._scores.items())}
        return replace(self._importance, exponent=best, trials=errors)

    @property
    def widths(self) -> Widths:
        """The sets of channels of which the plan may remove some."""
        return self._terms.basis.widths

    def _settle_widths(self) -> None:
        """Keep all channels where ranks alone do better, as they may in a network of large layers."""
        if not self.widths.sets or not self._run.kinds.kinds:
            return
        without = replace(self._terms, basis=ranks_alone(self._run, self._terms.basis))
        with contextlib.suppress(TargetError):
            score = self._rehearsal.score(self._plan(replace(self._importance, exponent=0.0), without))
            if not self._scores[0.0].error < score.error:
                self._terms, self._scores = without, {0.0: score}

    @property
    def _best(self) -> float:
        return min(self._scores, key=lambda exponent: self._scores[exponent].error)

    def _try(self, exponent: float) -> None:
        plan = self._plan(replace(self._importance, exponent=exponent), self._terms)
        if plan not in self._known:
            self._known[plan] = self._rehearsal.score(plan)
        self._scores[exponent] = self._known[plan]
        self._run.progress("weigh", 1 + len(self._scores), TRIALS + 2)

    def _plan(self, importance: Importance, terms: Terms) -> Plan:
        """Return the plan with these weights; one by the clock costs what is known before whole plans are measured.

        Where layers lose channels, MACs stand for the time.
        """
        options, total = self._run.options, terms.total
        by_macs = partial(plan_macs, self._run, terms.basis, weighed_energies(terms.energies, importance), importance)
        if options.target == "macs":
            return by_macs()
        if terms.basis.widths.sets:
            with contextlib.suppress(TargetError):
                return by_macs()
        layers = [
            replace(layer, log_energies=importance.factor(layer.name) * layer.log_energies) for layer in terms.layers
        ]
        others = total - sum(layer.untouched for layer in layers)
        budget = max(budget_for(total, options.speedup) - others, sum(int(layer.costs[0]) for layer in layers))
        chosen = SEARCHES[options.ranks](layers, budget)
        return Plan(tuple(plan for layer, i in zip(layers, chosen, strict=True) for plan in layer.site_plans(i)))
