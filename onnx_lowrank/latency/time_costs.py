"""Measured times as the planner's costs, in whole nanoseconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.kind import FormKind
from onnx_lowrank.latency.interpolation import between
from onnx_lowrank.latency.table import ORIGINAL, Choice

Array = NDArray[Any]

NANOSECONDS = 1_000_000
"""In a millisecond."""


@dataclass(frozen=True)
class LatencyCosts:
    """What one layer's choices cost; see ``plan.cost.Costs``.

    Attributes
    ----------
    times
        Measured milliseconds, ``ALONE`` among them.
    """

    times: Mapping[Choice, float]

    @property
    def untouched(self) -> int:
        """Of the convolution as it is."""
        return round(NANOSECONDS * self.times[ORIGINAL])

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """Measured, or interpolated between measured ranks; infinite beyond them."""
        return self._at(kind.name, ranks)

    def milliseconds(self, choice: Choice) -> float:
        """The time of one choice."""
        form, ranks = choice
        if form is None:
            return self.times[ORIGINAL]
        return float(self._at(form, np.array([ranks]))[0]) / NANOSECONDS

    def _at(self, form: str, ranks: Array) -> Array:
        measured = {choice_ranks: time for (name, choice_ranks), time in self.times.items() if name == form}
        return np.asarray(np.rint(NANOSECONDS * between(measured, ranks)))

    @property
    def gains(self) -> bool:
        """Whether anything was measured to be faster than the convolution as it is."""
        return min(self.times.values()) < self.times[ORIGINAL]
