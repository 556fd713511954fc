"""The part of the report on a model's outputs, and which of several outputs speaks for all of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OutputReport:
    """The errors of one output against the original's, on the samples that only judge.

    Attributes
    ----------
    samples
        The number of these samples.
    relative_error
        Σ(out − ref)² / Σ ref².
    centred_error
        Σ(out − ref)² / Σ(ref − mean)², with the means of channels on axis 1, on the last axis or on both, whichever
        leave least (an output of fewer axes is one channel); with the mean of all values where no channel varies.
        Unlike the relative error it is not flattered by an output with an offset.
    centred_low, centred_high
        The centred error that all such samples would show lies between them with a probability of 95 %; None where
        all samples were run in one batch.
    max_abs_error
        max |out − ref|.
    top1_agreement
        The share of samples on which both models name the same class; None if the output does not have the shape of
        class scores.
    top1_low, top1_high
        The share of all such samples lies between them with a probability of 95 % (Wilson's interval); None without
        an agreement.
    """

    samples: int
    relative_error: float
    centred_error: float
    centred_low: float | None
    centred_high: float | None
    max_abs_error: float
    top1_agreement: float | None
    top1_low: float | None
    top1_high: float | None


@dataclass(frozen=True)
class AccuracyReport:
    """The top-1 accuracy of both models on labelled samples.

    Attributes
    ----------
    samples
        The number of samples.
    before, after
        The shares that the original and the result get right, between 0 and 1.
    lost, gained
        The numbers of samples that only the original, and only the result, gets right.
    """

    samples: int
    before: float
    after: float
    lost: int = 0
    gained: int = 0


def farthest(outputs: Mapping[str, OutputReport]) -> str | None:
    """Return the name of the output with the largest centred error; None where none could be compared.

    An error that is not a number, because its sums overflowed, is larger than any other.
    """

    def error(name: str) -> float:
        value = outputs[name].centred_error
        return math.inf if math.isnan(value) else value

    return max(outputs, key=error, default=None)


def least_agreeing(outputs: Mapping[str, OutputReport]) -> str | None:
    """Return the name of the output of class scores with the lowest agreement; None where there are no scores."""
    agreements = {name: output.top1_agreement for name, output in outputs.items()}
    known = {name: agreement for name, agreement in agreements.items() if agreement is not None}
    return min(known, key=known.__getitem__, default=None)
