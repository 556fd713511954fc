"""How much worse a result may be: the verdicts, and the limit beyond which nothing is written."""

import math
from dataclasses import dataclass

from onnx_lowrank.errors import UsageError

KEPT, DEGRADED, DAMAGED, RUINED = "kept", "degraded", "damaged", "ruined"

LIMITS = ((KEPT, 0.02), (DEGRADED, 0.1), (DAMAGED, 0.5))
"""The verdicts with the largest centred error that each allows, from the best one on; what is above all is ruined."""

LIMIT_OF = dict(LIMITS)
"""The largest centred error of a verdict, by its name."""

ERROR, AGREEMENT, NONE = "error", "agreement", "none"
"""What a requirement may be about: the centred error, the top-1 agreement, or nothing."""


def verdict(centred_error: float) -> str:
    """Return the verdict on a result whose outputs have at most this centred error."""
    return next((name for name, limit in LIMITS if centred_error <= limit), RUINED)


@dataclass(frozen=True)
class Requirement:
    """What a result has to keep in order to be written.

    Attributes
    ----------
    measure
        ``ERROR``, ``AGREEMENT`` or ``NONE``.
    limit
        The largest centred error, at least 0, or the smallest agreement, above 0 and at most 1; 0 with ``NONE``.
    given
        Whether the user asked for it. What only holds by default is no reason to refuse a model that cannot be
        measured.
    """

    measure: str
    limit: float = 0.0
    given: bool = True

    def __str__(self) -> str:
        """Return the text that ``require`` reads."""
        return NONE if self.measure == NONE else f"{self.measure}={self.limit:g}"


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
    measure, equals, value = (part.strip().lower() for part in text.partition("="))
    if measure == NONE and not equals:
        return Requirement(NONE)
    try:
        limit = float(value)
    except ValueError:
        limit = math.nan
    if measure == ERROR and math.isfinite(limit) and limit >= 0:
        return Requirement(ERROR, limit)
    if measure == AGREEMENT and 0 < limit <= 1:
        return Requirement(AGREEMENT, limit)
    advice = {
        ERROR: f"give the largest centred error that is accepted, such as {ERROR}=0.02",
        AGREEMENT: f"give the smallest share that is accepted, between 0 and 1, such as {AGREEMENT}=0.95",
    }
    choices = f"give {AGREEMENT}=0.95, {ERROR}=0.02 or the like, or {NONE}"
    raise UsageError(f"require is {text!r}: {advice.get(measure, choices)}")
