"""The result of the regression or the alternation of one layer."""

from dataclasses import dataclass

import numpy as np

from onnx_lowrank.factorise.regression import LowRankMap

EXACT = 1e-12
"""A relative squared error that single precision alone makes; a solution below it cannot be improved."""


@dataclass(frozen=True)
class Fit:
    """The chosen map, and the errors and settings for which it was chosen.

    Relative errors are Σ(r(y) − r(ŷ))² / Σ r(y)² over the judging rows.

    Attributes
    ----------
    map
        The map that was solved on all samples.
    judged
        The candidate that won, solved without the judging rows.
    error_linear
        The relative error of the best linear candidate.
    error_nonlinear
        The relative error of the best nonlinear candidate; None where none was tried.
    ridge
        The ridge of the winner; infinite where the symmetric map won.
    iterations
        The iterations of the alternation; 0 where a linear candidate won.
    epochs
        The passes over the rows in which all factors were refined.
    """

    map: LowRankMap
    judged: LowRankMap
    error_linear: float
    error_nonlinear: float | None
    ridge: float
    iterations: int
    epochs: float = 0.0

    @property
    def error(self) -> float:
        """The relative error of the best candidate."""
        return self.error_linear if self.error_nonlinear is None else min(self.error_linear, self.error_nonlinear)

    @property
    def description(self) -> str:
        """A few words for the report about the candidate that won."""
        refined = f", refined in {self.epochs:g} epochs" if self.epochs else ""
        if np.isinf(self.ridge):
            unrefined = ": it is exact" if self.error_linear <= EXACT else ": too few samples to do better"
            return "the symmetric solution" + (refined or unrefined)
        kind = f"nonlinear, {self.iterations} iterations" if self.iterations else "linear"
        return f"{kind}, ridge {self.ridge:g}{refined}"
