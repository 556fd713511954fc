"""How long work reports that it moves; the command line draws it, a library user may ignore it."""

from typing import Protocol


class Progress(Protocol):
    """Receives every step of the stages that can take seconds."""

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` of ``total`` steps of ``stage`` are finished; ``done == 0`` starts it."""


def silent(stage: str, done: int, total: int) -> None:
    """Ignore all progress."""
