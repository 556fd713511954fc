"""The part of the report on layers that were refined together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RefinedReport:
    """A few neighbouring layers whose weights were to be refined together.

    Attributes
    ----------
    outputs
        The tensors that they deliver.
    layers
        The tensors that the layers of the original make.
    error_before, error_after
        The centred errors of what they deliver, on held-out samples; None where nothing was tried.
    steps
        The number of steps that led to the best weights.
    seconds
        The time that it took.
    kept
        Whether the old weights stay.
    reason
        The reason why they stay, or "refined".
    """

    outputs: tuple[str, ...]
    layers: tuple[str, ...]
    error_before: float | None
    error_after: float | None
    steps: int
    seconds: float
    kept: bool
    reason: str
