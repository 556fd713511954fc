"""The messages of a run while it works: its progress, and warnings.

The command line draws progress as bars and prints warnings; a caller of the library may ignore both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Warn: TypeAlias = Callable[[str], None]
"""A function that receives one line for the user to read."""


class Progress(Protocol):
    """A function that receives every step of the stages that can take seconds."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Hear that ``done`` of the ``total`` steps of a stage are finished; 0 steps announce the stage."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore all progress."""


def ignore(text: str) -> None:
    """Ignore a warning."""


@dataclass(frozen=True)
class Listener:
    """The receivers of a run's progress and of its warnings."""

    progress: Progress = silent
    warn: Warn = ignore


NOBODY = Listener()
"""A listener that ignores everything."""
