"""The interface of every head of a detector."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes

LEAST_SCORE = 0.01
"""The lowest score of a box that counts as found."""


class Head(Protocol):
    """A head whose outputs and layout are known."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""

    def boxes(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image, by descending score; None if an output has an unexpected shape."""


Find: TypeAlias = Callable[[Sequence[Batch], bool], Head | None]
"""Looks for a head in what a network answered to a few batches.

The second argument says whether the values have to prove it; otherwise a shape that fits is enough.
"""


@dataclass(frozen=True)
class HeadKind:
    """One kind of head.

    Attributes
    ----------
    name
        The name in options and in the report.
    needs
        The outputs that it reads, in words.
    find
        Looks for it.
    """

    name: str
    needs: str
    find: Find
