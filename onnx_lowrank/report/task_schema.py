"""The part of the report on what the outputs are for, and on labelled samples other than those with classes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeasureReport:
    """The value of a measure.

    Attributes
    ----------
    value
        The value on the samples that were measured.
    low, high
        The value of all such samples lies between them with a probability of 95 % (the bootstrap over samples); None
        for a single sample.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class TaskReport:
    """How well the result does what some outputs of the original are for, with the original's answers as the truth.

    Attributes
    ----------
    task
        "detection", "image", "segmentation" or "embedding".
    kind
        How the outputs are read, such as the head of a detector; None where there is only one way.
    outputs
        Their names.
    samples
        The number of samples.
    measures
        The values by the name of the measure.
    details
        What is worth knowing of the samples, such as the number of true boxes or the peak of the PSNR.
    """

    task: str
    kind: str | None
    outputs: tuple[str, ...]
    samples: int
    measures: dict[str, MeasureReport]
    details: dict[str, float]


@dataclass(frozen=True)
class LabelledReport:
    """How well both models do a task on labelled samples.

    Attributes
    ----------
    task, outputs, samples
        As in ``TaskReport``.
    before, after
        The values of the original and of the result, by the name of the measure.
    """

    task: str
    outputs: tuple[str, ...]
    samples: int
    before: dict[str, MeasureReport]
    after: dict[str, MeasureReport]
