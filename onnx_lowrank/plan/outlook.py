"""What milder speedups are estimated to do to a network, from what one speedup was measured to do.

A plan keeps the share Π E_l of the responses' energy, and loses L = −Σ log E_l, which ``allocate`` makes least. The
centred error of the outputs grows with L and does not grow beyond all bounds; it saturates near 1. The estimate is

    −log(1 − ε(L)) = a Lᵖ

with the one unknown a from the plan that was solved and measured: log(1 − ε') = (L' / L)ᵖ log(1 − ε). To first order
the errors of the layers add up at the output, and p is 1. It is lower where the energy says little of the error, as in
front of an activation that clips most of a response: 0.33 from 1.5× to 1.05× on a network of 1×1 and depthwise
convolutions with ReLU6, 0.8 on small residual networks, 1 and more on plain 3×3 convolutions with ReLU. So ε is
estimated at p = 1/2, and the values at p = 1 and p = 1/3 are its bounds. Where ε is nearly 1 or more nothing can be
told from it. Nothing is solved, so this costs next to nothing, and it is no more than an estimate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx_lowrank.plan.allocate import allocate, total_energy
from onnx_lowrank.plan.pareto import LayerChoices

STEPS = (0.75, 0.5, 0.25, 0.1)
"""The milder speedups that are looked at, as shares of what the measured one is above 1."""

EXPONENTS = (1 / 2, 1, 1 / 3)
"""p of the estimate, of the lower and of the upper bound."""

SATURATED = 0.98
"""A measured error above this says nothing about milder speedups."""


@dataclass(frozen=True)
class Milder:
    """A milder speedup, the centred error that is estimated for it, and the bounds of the estimate."""

    speedup: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Outlook:
    """The choices among which a plan was made.

    Attributes
    ----------
    layers
        The choices of every layer.
    all_macs
        The MACs that the speedup is about, those of these layers among them.
    speedup
        The speedup of the plan.
    ranks
        The search that made it, by its name.
    lost
        Returns −Σ log E of the plan for a speedup, where more than ranks is chosen; None where ranks alone are.
    """

    layers: Sequence[LayerChoices]
    all_macs: int
    speedup: float
    ranks: str
    lost: Callable[[float], float] | None = None

    def milder(self, error: float, wanted: float) -> Milder | None:
        """Return the highest of a few milder speedups that is estimated to stay within an error, or the lowest of them.

        Parameters
        ----------
        error
            The centred error that the plan was measured to have.
        wanted
            The error to stay within.

        Returns
        -------
        Milder or None
            None where the measured error allows no estimate, or no milder plan loses less.
        """
        lost = self._lost(self.speedup)
        if not (0 < error <= SATURATED and lost > 0 and math.isfinite(lost)):
            return None
        found = None
        for step in STEPS:
            speedup = float(f"{1 + step * (self.speedup - 1):.3g}")
            loses = self._lost(speedup)
            if not loses < lost:
                continue
            kept = math.log1p(-error)
            found = Milder(speedup, *(-math.expm1(kept * (loses / lost) ** power) for power in EXPONENTS))
            if found.error <= wanted:
                break
        return found

    def _lost(self, speedup: float) -> float:
        """Return −Σ log E of the plan for a speedup, which is no higher than one that was reached."""
        if self.lost is not None:
            return self.lost(speedup)
        others = self.all_macs - sum(layer.untouched for layer in self.layers)
        return -total_energy(self.layers, allocate(self.layers, others, speedup, self.ranks))
