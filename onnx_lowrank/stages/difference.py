"""The difference of an output from the original's, as sums that grow from batch to batch.

The plain error Σ(out − ref)² / Σ ref² looks small wherever the output has a large offset, such as coordinates in pixels
or logits with a common shift. The centred error Σ(out − ref)² / Σ(ref − mean)², with a mean for every channel (see
``spread``), compares the difference with what the output has to say.

Squares of very large numbers overflow even double precision. Ratios do not depend on the unit, so such outputs are
taken in units of their first large value.
"""

import math
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.stages.intervals import BatchSums, wilson
from onnx_lowrank.stages.spread import Spread

Array = NDArray[Any]

ROUND_OFF = 8.0
"""An output that varies by no more units of rounding than this is constant, and its error is compared with them."""


LARGE = 1e100
"""Sums of the squares of larger values may overflow."""


@dataclass(frozen=True)
class Difference:
    """The sums over the samples so far.

    Attributes
    ----------
    squared
        Σ(out − ref)² over the elements that are finite in the reference, by batches.
    scale
        Σ ref² over the same elements.
    spread
        Σ(ref − mean)² over the same elements, by channels; None before the first batch.
    largest
        max |out − ref| over the same elements.
    agreeing, scored
        The number of samples on which both outputs have the same largest score, and the number of all samples, where
        the output has the shape of class scores [samples, classes].
    classes
        The number of classes, which is the same for all samples; 0 as long as none is scored.
    rounding
        The relative rounding of the output.
    unit
        What the sums are measured in; 1 for all but the largest outputs.
    finite
        Whether ``out`` is finite wherever ``ref`` is. Where it is not, the other sums mean nothing.
    """

    squared: BatchSums = field(default_factory=BatchSums)
    scale: float = 0.0
    spread: Spread | None = None
    largest: float = 0.0
    agreeing: int = 0
    scored: int = 0
    classes: int = 0
    rounding: float = 0.0
    unit: float = 1.0
    finite: bool = True

    @np.errstate(over="ignore", invalid="ignore")  # an answer may be that far off
    def with_batch(self, ref: Array, out: Array, samples: int) -> "Difference":
        """Return the sums with one more batch.

        Parameters
        ----------
        ref, out
            The output of the original and of the rewritten model, which have the same shape.
        samples
            The number of samples that were fed.
        """
        finite = np.isfinite(ref)
        reference, answer = ref[finite].astype(np.float64), out[finite].astype(np.float64)
        if not self.finite or not np.isfinite(answer).all():
            return Difference(finite=False)
        unit = self.unit if self.compared else _unit(reference)
        reference, answer = reference / unit, answer / unit
        difference = np.abs(answer - reference)
        spread = Spread.of(ref if unit == 1 else ref / unit, finite)
        scores = ref.ndim == 2 and ref.shape[1] > 1 and len(ref) == samples and self.classes in (0, ref.shape[1])
        return Difference(
            squared=self.squared.with_batch(float(np.square(difference).sum()), samples),
            scale=self.scale + float(np.square(reference).sum()),
            spread=self.spread.joined(spread) if self.spread else spread,
            largest=max(self.largest, float(difference.max(initial=0.0))),
            agreeing=self.agreeing + (int((ref.argmax(axis=1) == out.argmax(axis=1)).sum()) if scores else 0),
            scored=self.scored + (samples if scores else 0),
            classes=ref.shape[1] if scores else self.classes,
            # Whatever the type of the output is, what makes it mostly computes in single precision.
            rounding=float(max(np.finfo(ref.dtype).eps, np.finfo(np.float32).eps)),
            unit=unit,
        )

    @property
    def compared(self) -> bool:
        """Whether any element was finite in the reference, so that there is something to compare."""
        return self.spread is not None and bool(self.spread.count.any())

    @property
    def centred_scale(self) -> float:
        """What the squared error is compared with in the centred error.

        Where no channel varies, as on samples that are all the same, the differences between the channels have to do,
        and the square of a value that has no other.
        """
        if self.spread is None:
            return 1.0
        least, varies = (ROUND_OFF * self.rounding) ** 2 * self.scale, self.spread.total
        if varies <= least:
            varies = self.scale if self.spread.count.sum() == 1 else float(self.spread.merged(0, 1).squares.sum())
        return max(varies, least) or 1.0

    def report(self, name: str) -> OutputReport:
        """Return the errors of an output; a reference of zeros leaves the sum of squares as its errors.

        Raises
        ------
        ValidationError
            If the output is not finite where the original's is.
        """
        if not self.finite:
            raise ValidationError(
                f"output {name!r} is not finite where the original's is: nothing was written; "
                "try more calibration data or a lower --speedup"
            )
        squared = self.squared
        low, high = squared.interval(self.centred_scale) or (None, None)
        # An output that looks like class scores on some batches only is something else.
        classifies = self.scored == squared.samples > 0
        least, most = wilson(self.agreeing, self.scored) if classifies else (None, None)
        return OutputReport(
            samples=squared.samples,
            relative_error=_number(squared.total / self.scale if self.scale else squared.total),
            centred_error=_number(squared.total / self.centred_scale),
            centred_low=None if low is None else _number(low),
            centred_high=None if high is None else _number(high),
            max_abs_error=_number(self.largest * self.unit),
            top1_agreement=self.agreeing / self.scored if classifies else None,
            top1_low=least,
            top1_high=most,
        )


def _unit(values: Array) -> float:
    """Return the unit for an output that begins with these values."""
    largest = float(np.abs(values).max(initial=0.0))
    return largest if largest > LARGE else 1.0


def _number(value: float) -> float:
    """Return a number that JSON has: the largest one for what overflows all the same."""
    return value if math.isfinite(value) else sys.float_info.max
