"""What lies along the channel axis of a tensor: channels of one layer, or those of several side by side.

A channel is known by the layer that makes it and by its index there. Behind a Concat the channels of several layers lie
side by side, and behind a Flatten each channel has one entry for each of its positions:

    Concat(a, b)            a0 a1 … b0 b1 …
    Flatten(a), 4 pixels    a0 a0 a0 a0 a1 a1 a1 a1 …
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Part:
    """All channels of one layer, in their order, each with the same number of consecutive entries.

    Attributes
    ----------
    source
        The output of the layer that makes the channels; None for channels that no such layer makes.
    count
        The number of channels.
    repeat
        The number of consecutive entries of each channel.
    """

    source: str | None
    count: int
    repeat: int = 1

    @property
    def size(self) -> int:
        """The number of entries."""
        return self.count * self.repeat


@dataclass(frozen=True)
class Layout:
    """The channels of a tensor.

    Attributes
    ----------
    rank
        The number of the tensor's axes.
    axis
        The axis along which the channels lie.
    parts
        What lies along it, from the first entry to the last.
    """

    rank: int
    axis: int
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """The number of entries along the axis."""
        return sum(part.size for part in self.parts)

    @property
    def sources(self) -> tuple[str, ...]:
        """The layers that make the channels, each once."""
        return tuple(dict.fromkeys(part.source for part in self.parts if part.source is not None))

    def repeated(self, times: int) -> "Layout":
        """Return the layout in which every entry stands so many times in place of once."""
        return replace(self, parts=tuple(replace(part, repeat=part.repeat * times) for part in self.parts))

    def starts(self) -> Iterator[tuple[int, Part]]:
        """Yield every part with the index of its first entry."""
        first = 0
        for part in self.parts:
            yield first, part
            first += part.size
