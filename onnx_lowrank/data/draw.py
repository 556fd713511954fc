"""The seeded draw of samples from those available.

The order is a seeded permutation, so every prefix and every stride of the drawn samples is a fair mixture of the
classes, however the folder was sorted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import UsageError
from onnx_lowrank.progress import Warn, ignore


@dataclass(frozen=True)
class Draw:
    """A draw of samples without replacement.

    Attributes
    ----------
    count
        The number of samples wanted, at least 1; all are drawn if there are fewer. None draws all in their own order.
    seed
        The seed of the random order, not negative.
    warn
        Receives a line for each sample that is left out and for each conversion worth knowing.

    Raises
    ------
    UsageError
        If ``count`` is below 1 or ``seed`` is negative.
    """

    count: int | None
    seed: int = 0
    warn: Warn = ignore

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise UsageError(f"{self.count} calibration samples were asked for: at least 1 is needed")
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}: give a number that is not negative")

    def indices(self, available: int) -> NDArray[np.int64]:
        """Draw from ``available`` samples.

        Returns
        -------
        NDArray[np.int64]
            Sample numbers in the order of the draw, shape [min(available, count)].
        """
        if self.count is None:
            return np.arange(available, dtype=np.int64)
        return np.random.default_rng(self.seed).permutation(available)[: self.count].astype(np.int64)


def once(warn: Warn) -> Warn:
    """Wrap ``warn`` so that it receives each distinct warning a single time, however many files cause it."""
    passed: set[str] = set()

    def warn_once(text: str) -> None:
        if text not in passed:
            passed.add(text)
            warn(text)

    return warn_once
