"""The patterns of --include and --exclude: searched in the names of layers, with advice where they match none."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.errors import UsageError

NEAREST = 3
"""The number of names that are suggested for a pattern that matches none."""

_OPERATORS = re.compile(r"\\[A-Za-z]|\.[*+?]|[\\^$*+?()\[\]{}|]")
"""The characters of a regular expression that stand for no character of a name; a dot of its own may be one."""


@dataclass(frozen=True)
class Pattern:
    """A regular expression that an option gives; without one, the pattern matches nothing.

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
        # Not get_close_matches, which lists names that are equally near from the last one to the first.
        nearest = sorted(names, key=lambda name: -difflib.SequenceMatcher(None, literal, name).ratio())[:NEAREST]
        verb = "name is" if len(nearest) == 1 else "names are"
        return f"{self.option} {self.text!r} matches no layer; the nearest {verb} {', '.join(nearest)}"
