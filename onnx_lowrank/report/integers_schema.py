"""The part of the report on a network that was rounded to 8 bits."""

from dataclasses import dataclass

from onnx_lowrank.report.latency_schema import Latency


@dataclass(frozen=True)
class RoundedReport:
    """A layer in integers.

    Attributes
    ----------
    name
        The name of its node.
    error
        The centred error of its responses behind the activation, on held-out samples; None where the original makes
        no such responses.
    """

    name: str
    error: float | None


@dataclass(frozen=True)
class FloatReport:
    """A layer that stays in floating point, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class IntegersReport:
    """The layers of a result in integers.

    Attributes
    ----------
    weight_bits
        The number of bits of the weights: 8, or 7 where the processor's products of 8 bits overflow.
    layers
        The layers that were rounded, in the order of the network.
    left
        The convolutions and fully connected layers that stay in floating point.
    alternatives
        The times of the original and of what else could have been made of it, measured in the same turns as the result:
        "low rank" in floating point, and "int8" without low rank. Empty where nothing but rounding happened.
    """

    weight_bits: int
    layers: tuple[RoundedReport, ...]
    left: tuple[FloatReport, ...]
    alternatives: dict[str, Latency]
