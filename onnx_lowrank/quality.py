"""How much worse a result may be: the verdicts, and the limit beyond which nothing is written."""

import math
from dataclasses import dataclass

from onnx_lowrank.errors import UsageError

KEPT, DEGRADED, DAMAGED, RUINED = "kept", "degraded", "damaged", "ruined"

LIMITS = ((KEPT, 0.02), (DEGRADED, 0.1), (DAMAGED, 0.5))
"""The verdicts with the largest centred error that each allows, from the best one on; what is above all is ruined."""

LIMIT_OF = dict(LIMITS)
"""The largest centred error of a verdict, by its name."""

ERROR, AGREEMENT, ACCURACY, NONE = "error", "agreement", "accuracy", "none"
"""What a requirement may be about: the centred error, the top-1 agreement, the loss on labelled samples, or nothing."""


@dataclass(frozen=True)
class Measure:
    """One thing that can be asked of a result.

    Attributes
    ----------
    name
        The name in options and in the report.
    higher_is_better
        Whether a limit is a floor; otherwise it is a ceiling.
    example
        A sensible limit.
    meaning
        What the limit says, for messages.
    most
        The largest value.
    title
        The name in tables and messages.
    """

    name: str
    higher_is_better: bool
    example: str
    meaning: str
    most: float = math.inf
    title: str = ""

    def allows(self, limit: float) -> bool:
        """Return whether the limit is one that a value can miss and can reach."""
        return 0 < limit <= self.most and limit < math.inf if self.higher_is_better else 0 <= limit < math.inf

    def keeps(self, value: float, limit: float) -> bool:
        """Return whether a value is at least as good as the limit; what is no number is not."""
        return value >= limit if self.higher_is_better else value <= limit

    def lost(self, value: float) -> float:
        """Return what a value lacks of a perfect one, so that half of it is half as bad; noise over signal for dB."""
        if not self.higher_is_better:
            return value
        return 10 ** (-value / 10) if math.isinf(self.most) else self.most - value

    def shown(self, value: float) -> str:
        """Return a value as readers like it; ratios of signal and noise, the only ones without a bound, are in dB."""
        if not self.higher_is_better:
            return f"{value:.3g}"
        return f"{value:.1f} dB" if math.isinf(self.most) else f"{value:.3f}"

    def shown_within(self, value: float, low: float | None, high: float | None) -> str:
        """Return a value with its confidence interval, for example 41.7 dB (40.9 to 42.4 dB)."""
        if low is None or high is None:
            return self.shown(value)
        return f"{self.shown(value)} ({self.shown(low).removesuffix(' dB')} to {self.shown(high)})"


_SHARE = "the smallest share that is accepted, between 0 and 1"

_POINTS = "the most points that may be lost on the labelled samples of --test"

MEASURES = {
    measure.name: measure
    for measure in (
        Measure(AGREEMENT, True, "0.95", _SHARE, 1.0, "top-1 agreement"),
        Measure(ERROR, False, "0.02", "the largest centred error that is accepted", title="centred error"),
        Measure(ACCURACY, False, "0.5", _POINTS, title="points lost on labelled samples"),
        Measure("ap50", True, "0.9", _SHARE, 1.0, "AP50"),
        Measure("ap75", True, "0.8", _SHARE, 1.0, "AP75"),
        Measure("miou", True, "0.9", _SHARE, 1.0, "mIoU"),
        Measure("psnr", True, "40", "the lowest signal-to-noise ratio that is accepted, in dB", title="PSNR"),
        Measure("ssim", True, "0.95", _SHARE, 1.0, "SSIM"),
        Measure("cosine", True, "0.95", _SHARE, 1.0, "cosine"),
    )
}
"""Everything that can be asked of a result, by name. What is no error, agreement or accuracy belongs to a task; the
files of ``measures`` define those."""


def verdict(centred_error: float) -> str:
    """Return the verdict on a result whose outputs have at most this centred error."""
    return next((name for name, limit in LIMITS if centred_error <= limit), RUINED)


@dataclass(frozen=True)
class Requirement:
    """What a result has to keep in order to be written.

    Attributes
    ----------
    measure
        The name of one of the ``MEASURES``, or ``NONE``.
    limit
        The smallest value of a measure of which more is better, and the largest of any other; 0 with ``NONE``.
    given
        Whether the user asked for it. What only holds by default is no reason to refuse a model that cannot be
        measured.
    option
        The option that states it, for messages.
    """

    measure: str
    limit: float = 0.0
    given: bool = True
    option: str = "require"

    def __str__(self) -> str:
        """Return the text that ``require`` reads."""
        return NONE if self.measure == NONE else f"{self.measure}={self.limit:g}"

    @property
    def of_a_task(self) -> bool:
        """Whether it is about what the outputs are for, such as the boxes of a detector."""
        return self.measure not in (ERROR, AGREEMENT, ACCURACY, NONE)

    def met_by(self, value: float) -> bool:
        """Return whether a value of the measure is good enough."""
        return self.measure == NONE or MEASURES[self.measure].keeps(value, self.limit)


BY_DEFAULT = Requirement(ERROR, LIMIT_OF[DAMAGED], given=False)
"""The requirement of a user who asks for none: the result may be damaged, and not ruined."""


def parse_requirement(text: str | None) -> Requirement:
    """Read the option ``require``; None stands for what holds by default.

    Raises
    ------
    UsageError
        If the text has no meaning.
    """
    if text is None:
        return BY_DEFAULT
    if not isinstance(text, str):
        raise UsageError(f"require is {text!r}: give a text, such as {AGREEMENT}=0.95, {ERROR}=0.02 or {NONE}")
    if text.strip().lower() == NONE:
        return Requirement(NONE)
    return parse_limit("require", text, f", or {NONE}")


def parse_kept(text: str | None) -> Requirement | None:
    """Read the option ``keep``; None stands for a run that is asked for a speedup instead.

    Raises
    ------
    UsageError
        If the text has no meaning.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        raise UsageError(f"keep is {text!r}: give a text, such as {AGREEMENT}=0.99 or {ERROR}=0.01")
    return parse_limit("keep", text)


def parse_limit(option: str, text: str, otherwise: str = "") -> Requirement:
    """Read a measure with its limit, such as "agreement=0.95".

    Parameters
    ----------
    option
        The name of the option, for messages.
    text
        Its value.
    otherwise
        What else the option takes, for messages.

    Raises
    ------
    UsageError
        If the text has no meaning.
    """
    name, _, value = (part.strip().lower() for part in text.partition("="))
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    measure = MEASURES.get(name)
    if measure is not None and measure.allows(limit):
        return Requirement(name, limit, option=option)
    advice = f"give {AGREEMENT}=0.95, {ERROR}=0.02 or the like{otherwise}; the measures are {', '.join(MEASURES)}"
    if measure is not None:
        advice = f"give {measure.meaning}, such as {name}={measure.example}"
    raise UsageError(f"{option} is {text!r}: {advice}")
