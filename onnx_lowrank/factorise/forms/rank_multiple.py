"""Which ranks a layer may have: those that fill blocks of channels.

Processors compute channels in blocks of 16 (AVX-512, tensor cores) or 8 (AVX2), and an incomplete block takes as long
as a whole one: on a processor with AVX-512, ranks 24, 28 and 32 take the same time in every form, and so do 40 and 48.
A rank between two multiples of a block loses energy and saves no time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import FormKind

Array = NDArray[Any]

BLOCK = 16
"""The widest block of channels that processors compute at once."""

ENOUGH = 2
"""A layer to which a block leaves fewer choices that cost less than itself is too small for the block."""


@dataclass(frozen=True)
class RankMultiple:
    """The numbers of which ranks are multiples.

    Attributes
    ----------
    block
        The number of which ranks are multiples.
    small
        The divisor of it that takes its place in layers too small for it; layers that are too small for both have no
        ranks that fill a block. With 0 the block holds for all layers, however small.
    least
        A power of two: ranks that do not fill a single block may be this number, its double, and so on; 0 where every
        rank fills a block.
    """

    block: int = 1
    small: int = 0
    least: int = 0

    @property
    def narrowest(self) -> int:
        """The number of which all ranks are multiples."""
        return min(filter(None, (self.block, self.small, self.least)))

    def of(self, kind: FormKind, shape: ConvShape) -> int | None:
        """Return the number of which the ranks of a form of a layer are multiples, or None where it is too small."""
        if not self.small:
            return self.block
        return next((block for block in (self.block, self.small) if _leaves_enough(kind, shape, block)), None)

    def ranks(self, kind: FormKind, shape: ConvShape) -> Array:
        """Return all ranks [m, number of ranks] that a form of a layer may have, in lexicographic order."""
        multiple = self.of(kind, shape)
        if multiple is None and not self.least:
            return kind.rank_choices(shape, self.small)[:0]
        return kind.rank_choices(shape, multiple or self.small, self.least)

    def lowest(self, kind: FormKind, shape: ConvShape) -> int | None:
        """Return the lowest rank that a form of a layer may have, as far as the form itself asks for no higher one."""
        return self.least or self.of(kind, shape)


def _leaves_enough(kind: FormKind, shape: ConvShape, block: int) -> bool:
    ranks = kind.rank_choices(shape, block)
    return len(ranks) >= ENOUGH and int((kind.macs(shape, ranks) < shape.macs).sum()) >= ENOUGH


EVERY_RANK = RankMultiple(1)
"""No rank is left out."""

BLOCKS = RankMultiple(BLOCK, BLOCK // 2)
"""Blocks that suit all of these processors, so that a plan does not depend on the machine that makes it."""


def from_wide_to_narrow() -> Iterator[RankMultiple]:
    """Yield ``BLOCKS`` and what may take its place, up to ``EVERY_RANK``.

    First, ranks below one block join those that fill blocks, which keeps all time that blocks save. Then blocks get
    narrower.
    """
    yield BLOCKS
    halves = [BLOCK >> power for power in range(1, BLOCK.bit_length())]
    yield from (RankMultiple(BLOCK, BLOCK // 2, half) for half in halves)
    yield from (RankMultiple(half, half // 2) for half in halves)
