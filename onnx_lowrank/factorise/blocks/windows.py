"""Windows of large maps, through which a block is looked at.

A window has to begin where every stride on the way begins anew, so that its positions are those of the whole map. The
pitch of a tensor is the distance of its neighbouring positions, in positions of the first input: a stride multiplies
it, a repetition divides it. A window that begins at a multiple of all pitches begins at a position of every tensor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from onnx_lowrank.factorise.blocks.arrangement import Repeated
from onnx_lowrank.factorise.blocks.block import Block, Known
from onnx_lowrank.factorise.blocks.convolution import Convolution
from onnx_lowrank.factorise.blocks.depthwise import Depthwise
from onnx_lowrank.factorise.blocks.interpolation import Interpolated
from onnx_lowrank.factorise.blocks.operator import Extent, Operator
from onnx_lowrank.factorise.blocks.pooling import LargestOf, MeanOfWindow

SIDE = 64
"""The side of a window, in positions of the finest tensor."""

WORTHWHILE = 1.5
"""Maps with fewer than so many times ``SIDE`` positions along an axis are looked at as a whole."""


@dataclass(frozen=True)
class Window:
    """The same window of all tensors that a block reads and delivers.

    Attributes
    ----------
    slices
        The positions along every spatial axis, by name.
    known
        Which positions of the outputs are known.
    """

    slices: Mapping[str, tuple[slice, ...]]
    known: Known


@dataclass(frozen=True)
class Windows:
    """The windows of one size through which a block can be looked at.

    Attributes
    ----------
    block
        The block.
    sizes
        The spatial sizes of its inputs.
    pitches
        The pitch of every input and output along each spatial axis.
    steps, lengths
        Along each axis, the distance between possible beginnings, and the length of the window, both in positions of
        the first input.
    """

    block: Block
    sizes: Mapping[str, tuple[int, ...]]
    pitches: Mapping[str, tuple[Fraction, ...]]
    steps: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def per_map(self) -> float:
        """The number of windows that a map could be cut into."""
        size = next(iter(self.sizes.values()))
        return math.prod(side / length for side, length in zip(size, self.lengths, strict=True))

    def draw(self, generator: np.random.Generator) -> Window | None:
        """Draw a window; None where it tells nothing about some output."""
        size = next(iter(self.sizes.values()))
        starts = []
        for side, step, length in zip(size, self.steps, self.lengths, strict=True):
            starts.append(int(generator.integers((side - length) // step + 1)) * step)
        slices, extents = {}, {}
        for name in self.sizes:
            own, along = [], []
            for axis, pitch in enumerate(self.pitches[name]):
                start, length = int(starts[axis] / pitch), int(self.lengths[axis] / pitch)
                # The last possible window reaches to the end of the map.
                own.append(slice(start, start + length))
                along.append(Extent(np.ones(length, np.bool_), start == 0, start + length == self.sizes[name][axis]))
            slices[name], extents[name] = tuple(own), along
        known = self.block.known(extents)
        if known is None or not all(positions.any() for own in known.values() for positions in own):
            return None
        for name, positions in known.items():
            begins = [int(start / pitch) for start, pitch in zip(starts, self.pitches[name], strict=True)]
            ends = [begin + len(own) for begin, own in zip(begins, positions, strict=True)]
            slices[name] = tuple(map(slice, begins, ends))
        return Window(slices, known)


def windows(block: Block, sizes: Mapping[str, tuple[int, ...]]) -> Windows | None:
    """Return the windows through which a block can be looked at; None where maps are small or only whole ones tell.

    Parameters
    ----------
    block
        The block.
    sizes
        The spatial sizes of its inputs.
    """
    size = next(iter(sizes.values()))
    pitches = _pitches(block, sizes)
    if pitches is None or not size or any(len(own) != len(size) for own in pitches.values()):
        return None
    steps, lengths = [], []
    for axis, side in enumerate(size):
        along = [own[axis] for own in pitches.values()]
        step = math.lcm(*(pitch.numerator for pitch in along))
        length = max(step, round(SIDE * min(along, default=Fraction(1))) // step * step)
        if side < WORTHWHILE * length:
            steps.append(1)
            lengths.append(side)
        else:
            steps.append(step)
            # Windows may begin at every step, and the last one ends where the map does.
            lengths.append(length + (side - length) % step)
    if tuple(lengths) == tuple(size):
        return None
    found = Windows(block, sizes, pitches, tuple(steps), tuple(lengths))
    return found if found.draw(np.random.default_rng(0)) else None


def _pitches(block: Block, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Fraction, ...]] | None:
    """Return the pitches of all tensors; None where they do not fit together."""
    size = next(iter(sizes.values()))
    pitches = {}
    for name, own in sizes.items():
        if len(own) != len(size):
            return None
        pitches[name] = tuple(Fraction(side, other) for side, other in zip(size, own, strict=True))
        if any(1 not in (pitch.numerator, pitch.denominator) for pitch in pitches[name]):
            return None
    for node in block.nodes:
        read = {pitches[name] for name in node.reads if name in pitches}
        if len(read) != 1:
            return None
        pitches[node.makes] = _behind(node.operator, read.pop())
    return pitches


def _behind(operator: Operator, pitches: Sequence[Fraction]) -> tuple[Fraction, ...]:
    if isinstance(operator, Convolution | Depthwise | LargestOf | MeanOfWindow):
        strides = operator.taps.strides
        return (
            tuple(pitch * stride for pitch, stride in zip(pitches, strides, strict=True)) if strides else tuple(pitches)
        )
    if isinstance(operator, Repeated | Interpolated):
        return tuple(pitch / times for pitch, times in zip(pitches, operator.times, strict=True))
    return tuple(pitches)
