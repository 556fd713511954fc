"""The patterns of --include and --exclude: searched in the names of layers, with advice where they match none."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.errors import UsageError

NEAREST = 3
"""The number of names that are suggested for a pattern that matches none."""

_OPERATORS = re.compile(r"\\.|[\^$.*+?()\[\]{}|]")
"""What stands for no character of its own in a regular expression."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression that an option gives; without one it matches nothing and ``given`` is false.

    Attributes
    ----------
    option
        The option, such as "--include".
    text
        The regular expression; None where the option is not used.
    """

    option: str
    text: str | None

    def __post_init__(self) -> None:
        """Refuse what is no regular expression.

        Raises
        ------
        UsageError
            With the place in the expression.
        """
        try:
            re.compile(self.text or "")
        except re.error as error:
            raise UsageError(f"{self.option} {self.text!r} is not a regular expression: {error}") from error

    @property
    def given(self) -> bool:
        """Whether the option is used."""
        return self.text is not None

    def matches(self, name: str) -> bool:
        """Whether the expression occurs in a name."""
        return self.text is not None and re.search(self.text, name) is not None

    def complaint(self, names: Sequence[str]) -> str | None:
        """Return a line with the nearest names where the expression matches none of these; else None."""
        if self.text is None or not names or any(self.matches(name) for name in names):
            return None
        literal = _OPERATORS.sub("", self.text)
        nearest = difflib.get_close_matches(literal, names, NEAREST, cutoff=0.0)
        return f"{self.option} {self.text!r} matches no layer; the nearest names are {', '.join(nearest)}"
