"""Numbers that are measured on samples, and how sure their differences are (Tukey's jackknife).

A statistic is computed on all n samples and n times on all but one. Of the difference δ of two statistics on the same
samples the squared standard error is (n − 1)/n · Σ (δ₋ᵢ − mean δ₋)²; what the samples have in common cancels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Estimate:
    """A statistic of some samples.

    Attributes
    ----------
    value
        The statistic of all samples.
    without
        The statistic of all samples but one, shape [n].
    """

    value: float
    without: NDArray[np.float64]

    def above(self, other: "Estimate") -> float:
        """Return by how many standard errors this statistic lies above another one of the same samples."""
        difference = self.value - other.value
        differences = self.without - other.without
        count = len(differences)
        error = float(np.sqrt((count - 1) / count * np.square(differences - differences.mean()).sum()))
        if error == 0.0:
            return 0.0 if difference == 0.0 else float(np.copysign(np.inf, difference))
        return difference / error
