"""Measured times as the costs by which the planner chooses, in whole nanoseconds."""

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
"""The number of nanoseconds in a millisecond."""


@dataclass(frozen=True)
class LatencyCosts:
    """The costs of one layer's choices in nanoseconds; see ``plan.cost.Costs``.

    Attributes
    ----------
    times
        Measured milliseconds by choice; ``ORIGINAL`` is among them.
    """

    times: Mapping[Choice, float]

    @property
    def untouched(self) -> int:
        """Nanoseconds of the untouched convolution."""
        return round(NANOSECONDS * self.times[ORIGINAL])

    def of(self, kind: FormKind, ranks: Array) -> Array:
        """Return [m], the nanoseconds of a form at ranks [m, number of its ranks].

        They are measured, or interpolated between measured ranks, and infinite beyond these.
        """
        return self._at(kind.name, ranks)

    def _at(self, form: str, ranks: Array) -> Array:
        measured = {ranks: time for (name, ranks), time in self.times.items() if name == form}
        return np.asarray(np.rint(NANOSECONDS * between(measured, ranks)))

    def milliseconds(self, choice: Choice) -> float:
        """Return the milliseconds of one choice."""
        form, ranks = choice
        if form is None:
            return self.times[ORIGINAL]
        return float(self._at(form, np.array([ranks]))[0]) / NANOSECONDS

    @property
    def gains(self) -> bool:
        """Whether some choice was measured to be faster than the untouched convolution."""
        return min(self.times.values()) < self.times[ORIGINAL]
