"""The measure by which the solvers of a layer choose: the relative squared error behind the activation.

It is Σ (r(y) − r(ŷ + ŝ))² / Σ r(y)² over rows that take no part in the solution, with the activation r, the targets y,
the predictions ŷ and, where one joins, the shortcut ŝ.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation, apply
from onnx_lowrank.factorise.moments import BLOCK
from onnx_lowrank.factorise.workers import in_order

Array = NDArray[Any]


@dataclass(frozen=True)
class Judge:
    """The judging rows of one layer.

    Attributes
    ----------
    regressors
        X, [n, ...], float32.
    target
        r(y), [m, d], float32, of the judging rows.
    shortcut
        ŝ, [n, d], float32, or None.
    activation
        r, or None for the identity.
    judging
        [m], the numbers of the judging rows among the n; None where all n judge.
    """

    regressors: Array
    target: Array
    shortcut: Array | None
    activation: Activation | None
    judging: NDArray[np.intp] | None = None

    @cached_property
    def scale(self) -> float:
        """Σ r(y)²; 1 for a dead layer, whose candidates are then ranked by the absolute error."""
        return float(np.vdot(self.target, self.target)) or 1.0

    def error(self, predict: Callable[[Array], Array]) -> float:
        """Return the relative error of a function from regressors to new arrays of predictions [·, d]."""

        def block_error(start: int) -> float:
            block = slice(start, start + BLOCK)
            rows = block if self.judging is None else self.judging[block]
            response = predict(self.regressors[rows])
            if self.shortcut is not None:
                response += self.shortcut[rows]
            difference = apply(self.activation, response)
            difference -= self.target[block]
            return float(np.vdot(difference, difference))

        count, width = self.target.shape
        work = float(min(count, BLOCK)) * width * math.prod(self.regressors.shape[1:])
        return sum(in_order(block_error, range(0, count, BLOCK), work)) / self.scale
