"""What a search by the clock and its caller hand each other: proposals, times, and the plan that was found.

The symbols T', T₀, t_l and σ are those of ``latency.search``.
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from onnx_lowrank.latency.table import Choice
from onnx_lowrank.plan.allocate import Chosen, total_cost, total_energy
from onnx_lowrank.plan.pareto import LayerChoices
from onnx_lowrank.plan.plan import Plan, SitePlan


@dataclass(frozen=True)
class WholeTime:
    """The time of a whole model, measured in turns with the original.

    Attributes
    ----------
    before_ms, after_ms
        Median milliseconds of the original and of the model.
    ratio
        How many times as fast as the original the model is.
    low
        The lower bound of the ratio's confidence interval.
    """

    before_ms: float
    after_ms: float
    ratio: float
    low: float


@dataclass(frozen=True)
class TimedLayer:
    """The choices of one layer at the times that are known by now.

    Attributes
    ----------
    choices
        The Pareto front, with costs in nanoseconds.
    measured
        Those choices whose times were measured; the times of all others are interpolated.
    """

    choices: LayerChoices
    measured: frozenset[Choice]


@dataclass(frozen=True)
class LayerProposal:
    """A request to measure single layers: the search chose them at times that were only interpolated."""

    sites: tuple[SitePlan, ...]


@dataclass(frozen=True)
class ModelProposal:
    """A request to measure a whole model that is rewritten as planned, in turns with the original."""

    plan: Plan


Proposal: TypeAlias = LayerProposal | ModelProposal


class Outcome(Protocol):
    """What a search by the clock knows of the time of the plan that it found."""

    @property
    def from_layers_ms(self) -> float:
        """T' at σ = 1: the time that the layers promise."""

    @property
    def predicted_ms(self) -> float:
        """T' at the σ that was known before the plan was measured."""

    @property
    def correction(self) -> float:
        """The σ that the plan's own time shows."""

    @property
    def measured(self) -> WholeTime | None:
        """The time of the whole model; None where it cannot be measured."""

    @property
    def rounds(self) -> int:
        """The number of plans that were measured up to this one."""


@dataclass(frozen=True)
class Found:
    """A plan and its time.

    Attributes
    ----------
    chosen
        [layers], an index into the choices of every layer.
    layers
        The choices of every layer, at the times by which the plan was chosen.
    from_layers_ms
        T' at σ = 1: the time that T₀ and the layers' times predict.
    predicted_ms
        T' at the σ that was known before the plan was measured.
    correction
        The σ that the plan's own time shows.
    measured
        The time of the whole model; None where it cannot be measured.
    rounds
        The number of plans that were measured up to this one.
    """

    chosen: Chosen
    layers: tuple[LayerChoices, ...]
    from_layers_ms: float
    predicted_ms: float
    correction: float
    measured: WholeTime | None
    rounds: int

    @property
    def plan(self) -> Plan:
        """The form and the ranks of every layer."""
        return Plan(tuple(plan for x, i in zip(self.layers, self.chosen, strict=True) for plan in x.site_plans(i)))

    @property
    def saved_ms(self) -> float:
        """Σ_l (t_l(untouched) − t_l(chosen)), in milliseconds."""
        return (self.untouched_ns - self.cost_ns) / 1e6

    @property
    def untouched_ns(self) -> int:
        """Nanoseconds of all layers together, untouched."""
        return sum(layer.untouched for layer in self.layers)

    @property
    def cost_ns(self) -> int:
        """Nanoseconds of all layers together, as chosen."""
        return total_cost(self.layers, self.chosen)

    @property
    def energy(self) -> float:
        """The log-energy that the plan keeps, Σ_l log E_l."""
        return total_energy(self.layers, self.chosen)
