"""The measures of a task, added up over the samples, with intervals by the bootstrap over them (Efron 1979).

Samples are drawn with replacement from those that were seen, as many as there are, again and again, and every draw has
a value of the measure. The middle 95 % of these values are the interval. A draw is a vector of weights: how often it
holds every sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.task import Task

DRAWS = 500
"""The number of draws, whose 2.5 and 97.5 percentiles vary by a few hundredths of the width of the interval."""

CONFIDENCE = 0.95
"""The probability with which an interval holds the value that all such samples would give."""


@dataclass(frozen=True)
class Estimate:
    """A value that was measured on some samples.

    Attributes
    ----------
    value
        The value.
    low, high
        The value of all such samples lies between them with a probability of 95 %; None for a single sample, which
        says nothing of others.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Tally:
    """The scores of all samples so far.

    Attributes
    ----------
    task
        What is measured.
    scores
        What ``task.score`` said of every sample.
    """

    task: Task
    scores: tuple[Any, ...] = ()

    @np.errstate(all="ignore")  # an answer may be anything
    def with_batch(self, original: Batch, answered: Batch) -> "Tally | None":
        """Return the scores with another batch, of which the original's answers are the truth.

        None stands for outputs that no longer look as they did when the task was recognised.
        """
        truth, answers = self.task.answers(original), self.task.answers(answered)
        if truth is None or answers is None:
            return None
        return self.with_answers([self.task.truth(answer) for answer in truth], answers)

    @np.errstate(all="ignore")
    def with_answers(self, truth: Sequence[Any], answers: Sequence[Any]) -> "Tally | None":
        """Return the scores with more answers, of which the truth is known; None if they cannot be compared."""
        scores = [self.task.score(true, answer) for true, answer in zip(truth, answers, strict=True)]
        return None if any(score is None for score in scores) else replace(self, scores=(*self.scores, *scores))

    @np.errstate(all="ignore")
    def estimates(self) -> dict[str, Estimate]:
        """Return the measures that these samples have, by name.

        What has no value, such as the precision of boxes where there are no boxes, is left out.
        """
        count = len(self.scores)
        if not count:
            return {}
        draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), DRAWS if count > 1 else 0)
        values = self.task.values(self.scores, np.concatenate([np.ones((1, count)), draws]).astype(np.float64))
        return {name: _estimate(each) for name, each in values.items() if np.isfinite(each[0])}


def _estimate(values: NDArray[np.float64]) -> Estimate:
    """Return a value [0] with the interval from those of the draws [1:], of which some may have none."""
    draws = values[1:][np.isfinite(values[1:])]
    if not len(draws):
        return Estimate(float(values[0]), None, None)
    low, high = np.quantile(draws, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    # With few samples the draws may lie to one side of what all samples say together.
    return Estimate(float(values[0]), float(min(low, values[0])), float(max(high, values[0])))
