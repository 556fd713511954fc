"""The stage that weighs the energies of all layers by what their errors do to the outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.errors import TargetError
from onnx_lowrank.factorise.forms.kind import Energies, FormKind
from onnx_lowrank.plan.importance import EQUAL, Importance
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.choices import layers_to_choose, site_energies
from onnx_lowrank.stages.plan import plan_macs
from onnx_lowrank.stages.plan_widths import weight_name
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.rehearsal import Rehearsal
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.widths import Widths

EXPONENTS = (0.0, 0.5, 1.0)
"""The powers of the weights that are tried first; those halfway to the neighbours of the best one follow."""

GAIN = 0.03
"""The share by which a plan's error has to be below that of the energies' plan, or the latter is taken."""


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
    """

    energies: Mapping[str, Mapping[FormKind, Energies]]
    importance: Importance


def weigh(run: Run, basis: Basis) -> Weighed:
    """Measure what the error of each layer does to the outputs, and how much of it a plan should believe.

    Where the user gave a plan, wants the plan of the energies or looks at no data, or where there is little to choose
    or to choose from, all layers weigh the same.
    """
    if basis.reach.user_plan:
        return Weighed({}, EQUAL)
    with run.times.stage("weigh"):
        energies = site_energies(basis.counted, basis.profiled, run.kinds)
        rehearsal = Rehearsal(run, basis)
        if run.options.objective == "energies" or run.options.solver == "weights" or not rehearsal.worthwhile:
            return Weighed(energies, EQUAL)
        layers = layers_to_choose(energies, basis.counted, basis.reach.multiple)
        if sum(len(layer.costs) > 1 for layer in layers) + len(basis.widths.sets) < 2:
            return Weighed(energies, EQUAL)
        run.progress("weigh", 0, len(EXPONENTS) + 3)
        importance = measure_importance(rehearsal, layers, basis.widths, run.options.speedup)
        run.progress("weigh", 1, len(EXPONENTS) + 3)
        trials = _Trials(run, basis, rehearsal, energies, importance)
        exponent = trials.best()
        run.progress("weigh", len(EXPONENTS) + 3, len(EXPONENTS) + 3)
        chosen = replace(importance, exponent=exponent, trials=dict(sorted(trials.errors.items())))
    return Weighed(weighed_energies(energies, chosen), chosen)


def weighed_energies(
    energies: Mapping[str, Mapping[FormKind, Energies]], importance: Importance
) -> dict[str, dict[FormKind, Energies]]:
    """Return the log-energies of all forms of all layers as the planner is to see them."""
    return {
        name: {kind: importance.weighed(name, expected) for kind, expected in kinds.items()}
        for name, kinds in energies.items()
    }


def measure_importance(
    rehearsal: Rehearsal, layers: Sequence[LayerChoices], widths: Widths, speedup: float
) -> Importance:
    """Replace every layer alone, at about the cost that the speedup leaves it, and look at the outputs."""
    levels = {layer.name: _level(layer, speedup) for layer in layers if len(layer.costs) > 1}
    plans = (layer.site_plans(levels.get(layer.name, len(layer.costs) - 1)) for layer in layers)
    plan = Plan(tuple(choice for choices in plans for choice in choices))
    losses = {
        layer.name: float(-np.expm1(layer.log_energies[levels[layer.name]])) for layer in layers if layer.name in levels
    }
    losses |= {weight_name(one.name): one.curve.error(one.probe.width) for one in widths.sets}
    return Importance.measured(rehearsal.alone(plan), losses)


def _level(layer: LayerChoices, speedup: float) -> int:
    """Return the costliest choice that makes a layer as much cheaper as the whole network, or its cheapest one."""
    affordable = int(np.searchsorted(layer.costs[:-1], layer.untouched / speedup, side="right")) - 1
    return max(0, affordable)


class _Trials:
    """Rehearsals of the plans that belong to several exponents."""

    def __init__(
        self,
        run: Run,
        basis: Basis,
        rehearsal: Rehearsal,
        energies: Mapping[str, Mapping[FormKind, Energies]],
        importance: Importance,
    ) -> None:
        self._run, self._basis, self._rehearsal = run, basis, rehearsal
        self._energies, self._importance = energies, importance
        self._known: dict[Plan, float] = {}
        self.errors: dict[float, float] = {}

    def best(self) -> float:
        """Return the exponent of the plan with the least error; 0 unless another one is clearly better."""
        try:
            for exponent in EXPONENTS:
                self._try(exponent)
        except TargetError:  # the clock may reach what MACs do not
            return 0.0
        first = min(self.errors, key=self.errors.__getitem__)
        for neighbour in EXPONENTS:
            if abs(neighbour - first) == EXPONENTS[1]:
                self._try((first + neighbour) / 2)
        best = min(self.errors, key=self.errors.__getitem__)
        return best if self.errors[best] < (1 - GAIN) * self.errors[0.0] else 0.0

    def _try(self, exponent: float) -> None:
        importance = replace(self._importance, exponent=exponent)
        weighed = weighed_energies(self._energies, importance)
        plan = plan_macs(self._run, self._basis, weighed, importance)
        if plan not in self._known:
            self._known[plan] = self._rehearsal.error(plan)
        self.errors[exponent] = self._known[plan]
        self._run.progress("weigh", 1 + len(self.errors), len(EXPONENTS) + 3)
