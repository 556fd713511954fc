"""The part of the report on what speedups cost: the solved models, and the quality that chose among them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TradeOffPoint:
    """One solved model, measured on samples that no solver saw.

    Attributes
    ----------
    speedup
        What the plan was made for, in terms of the option ``target``.
    macs
        The ratio of the MACs.
    latency
        The ratio of the times that the plan is expected to have, where the target is the latency; else None.
    centred_error
        That of the output with the largest one; None where no output can be compared.
    top1_agreement
        That of the output with the lowest one; None where no output holds class scores.
    value
        The measure that ``keep`` names; None without ``keep``.
    bound
        The worse end of its one-sided 95 % interval, which is what is compared with the limit.
    keeps
        Whether the bound keeps the limit; None without ``keep``.
    chosen
        Whether it is the result.
    """

    speedup: float
    macs: float
    latency: float | None
    centred_error: float | None
    top1_agreement: float | None
    value: float | None
    bound: float | None
    keeps: bool | None
    chosen: bool


@dataclass(frozen=True)
class KeptReport:
    """The quality that was asked for, and what the result has of it on samples that took no part in choosing.

    Attributes
    ----------
    measure, limit
        What ``keep`` asked for.
    value, low, high
        The measure on the samples that judge, or on the half of the labelled samples that did not choose, with its 95 %
        confidence interval; None where it cannot be measured there.
    samples
        The number of these samples.
    holds
        Whether the value keeps the limit.
    """

    measure: str
    limit: float
    value: float | None
    low: float | None
    high: float | None
    samples: int
    holds: bool | None


@dataclass(frozen=True)
class TradeOffReport:
    """What speedups cost.

    Attributes
    ----------
    measure
        The measure that ``keep`` names; None without it.
    samples
        The number of samples on which the points were measured: with labels for the accuracy.
    points
        The solved models by rising speedup.
    kept
        What the result keeps on other samples; None without ``keep``, and where nothing was measured.
    """

    measure: str | None
    samples: int
    points: tuple[TradeOffPoint, ...]
    kept: KeptReport | None = None
