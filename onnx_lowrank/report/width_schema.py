"""The part of the report on channels that were removed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WidthReport:
    """A set of channels between the layers that make them and those that read them.

    Attributes
    ----------
    name
        The name of the layer that makes them.
    before, after
        The number of channels in the original and in the result.
    readers
        The names of the layers that read them, and are fitted to those that stay.
    error
        The error that the readers were expected to make with these channels, on held-out samples and relative to what
        their responses become part of, before any of them was solved; 0 where all channels stay.
    """

    name: str
    before: int
    after: int
    readers: tuple[str, ...]
    error: float
