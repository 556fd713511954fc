"""What a run tells while it works: how far it has come, and what its user should know.

The command line draws the one and prints the other; a library user may ignore both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Warn: TypeAlias = Callable[[str], None]
"""Receives one line that the user should read."""


class Progress(Protocol):
    """Receives every step of the stages that can take seconds."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of ``stage`` are finished; ``done == 0`` starts it."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore all progress."""


def ignore(text: str) -> None:
    """Ignore a warning."""


@dataclass(frozen=True)
class Listener:
    """Who hears of a run's progress and of its warnings."""

    progress: Progress = silent
    warn: Warn = ignore


NOBODY = Listener()
"""Hears everything and does nothing."""
