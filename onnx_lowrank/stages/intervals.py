"""Confidence intervals of what the samples show of the outputs.

A share of agreeing samples has the interval of Wilson (1927), which stays within 0..1 and is honest where all samples
agree. A ratio S / C has the interval of a sum over batches: S = Σ_b s_b, where batch b holds n_b of N samples. With
r = S / N and m batches the variance of S is estimated as m / (m − 1) · Σ_b (s_b − r n_b)², and S is taken to follow
Student's distribution with m − 1 degrees of freedom. C, a sum over the same samples, is taken as it is.
"""

import math
from dataclasses import dataclass

from scipy.special import ndtri, stdtrit

CONFIDENCE = 0.95
"""The probability with which an interval holds the true value."""

Interval = tuple[float, float]


def wilson(successes: int, trials: int) -> Interval:
    """Return the interval of a share of which ``successes`` of ``trials``, at least one, were seen."""
    z = float(ndtri((1 + CONFIDENCE) / 2))
    share = successes / trials
    weight = 1 + z * z / trials
    middle = (share + z * z / (2 * trials)) / weight
    half = z / weight * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def standard_error(value: float, high: float | None, batches: int) -> float:
    """Return the standard error of a ratio whose interval ends at ``high``; the value itself where none is known."""
    if high is None or batches < 2:
        return value
    return (high - value) / float(stdtrit(batches - 1, (1 + CONFIDENCE) / 2))


def lost_points(lost: int, gained: int, samples: int) -> tuple[float, float]:
    """Return the points of accuracy that one of two models loses on the same samples, and their standard error.

    With half a sample added to each of the four cells of the table of both models' answers, the error is an honest one
    where no answer changes (Agresti & Min 2005).

    Parameters
    ----------
    lost, gained
        The numbers of samples that only the first, and only the second, gets right.
    samples
        The number of all samples.
    """
    changed, difference, count = lost + gained + 1, lost - gained, samples + 2
    return 100 * (lost - gained) / samples, 100 * math.sqrt(changed - difference**2 / count) / count


def lost_interval(lost: int, gained: int, samples: int) -> Interval:
    """Return the interval of the points that ``lost_points`` estimates, about the estimate with the cells filled up."""
    _, error = lost_points(lost, gained, samples)
    middle, half = 100 * (lost - gained) / (samples + 2), float(ndtri((1 + CONFIDENCE) / 2)) * error
    return middle - half, middle + half


@dataclass(frozen=True)
class BatchSums:
    """Running sums over the batches for the interval of their total.

    Attributes
    ----------
    batches, samples
        m and N.
    total
        S = Σ s_b.
    squares, products, squared_sizes
        Σ s_b², Σ s_b n_b and Σ n_b².
    """

    batches: int = 0
    samples: int = 0
    total: float = 0.0
    squares: float = 0.0
    products: float = 0.0
    squared_sizes: float = 0.0

    def with_batch(self, value: float, size: int) -> "BatchSums":
        """Return the sums with one more batch of ``size`` samples, which adds ``value``."""
        return BatchSums(
            batches=self.batches + 1,
            samples=self.samples + size,
            total=self.total + value,
            squares=self.squares + value * value,
            products=self.products + value * size,
            squared_sizes=self.squared_sizes + size * size,
        )

    def interval(self, scale: float) -> Interval | None:
        """Return the interval of ``total`` / ``scale``, or None where a single batch shows no variation."""
        if self.batches < 2:
            return None
        mean = self.total / self.samples
        scatter = max(0.0, self.squares - 2 * mean * self.products + mean * mean * self.squared_sizes)
        deviation = math.sqrt(self.batches / (self.batches - 1) * scatter)
        half = float(stdtrit(self.batches - 1, (1 + CONFIDENCE) / 2)) * deviation
        return max(0.0, (self.total - half) / scale), (self.total + half) / scale
