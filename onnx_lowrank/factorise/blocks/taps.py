"""The taps of a kernel: which outputs read which inputs through each element of a convolution's or a pooling's kernel.

Along every spatial axis the output at o reads, through the element k of the kernel, the input at

    i = o · stride − pad + k · dilation,        where this lies inside the map.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnx_lowrank.factorise.blocks.operator import Extent

Slices = tuple[slice, ...]


@dataclass(frozen=True)
class Taps:
    """The geometry of a kernel, along every spatial axis.

    Attributes
    ----------
    kernel, strides, dilations
        Sizes and steps.
    before, after
        The padding in front and behind.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def is_point(self) -> bool:
        """Whether the output at a position reads the input at this position alone."""
        return set(self.kernel) | set(self.strides) <= {1} and set(self.before) | set(self.after) <= {0}

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the output for an input of this size."""
        return tuple(self.output_size_along(axis, length) for axis, length in enumerate(size))

    def __call__(self, size: Sequence[int]) -> Iterator[tuple[int, Slices, Slices]]:
        """Yield for every element of the kernel its number, the outputs that read through it, and what they read.

        Elements that reach into the padding alone are left out.
        """
        outputs = self.output_size(size)
        along = [
            [self.pair(axis, element, size[axis], outputs[axis]) for element in range(self.kernel[axis])]
            for axis in range(len(size))
        ]
        for number, pairs in enumerate(itertools.product(*along)):
            found = [pair for pair in pairs if pair]
            if len(found) == len(pairs):
                yield number, tuple(out for out, _ in found), tuple(read for _, read in found)

    def pair(self, axis: int, element: int, size: int, outputs: int) -> tuple[slice, slice] | None:
        """Return the outputs that read through an element along one axis, and what they read; None for nothing."""
        stride, offset = self.strides[axis], element * self.dilations[axis] - self.before[axis]
        start = max(0, -(offset // stride))
        stop = min(outputs, (size - 1 - offset) // stride + 1)
        if start >= stop:
            return None
        return slice(start, stop), slice(start * stride + offset, (stop - 1) * stride + offset + 1, stride)

    def extent(self, axis: int, read: Extent) -> Extent | None:
        """Return what is known of the output: the positions that read known ones, or padding at the end of the map."""
        before, after = self.before[axis], self.after[axis]
        padded = np.concatenate([np.full(before, read.first), read.known, np.full(after, read.last)])
        count, stride = self.output_size_along(axis, len(read.known)), self.strides[axis]
        known = np.ones(count, np.bool_)
        for element in range(self.kernel[axis]):
            start = element * self.dilations[axis]
            known &= padded[start : start + (count - 1) * stride + 1 : stride]
        return Extent(known, read.first, read.last)

    def output_size_along(self, axis: int, length: int) -> int:
        """Return the size of the output along one axis."""
        return (length + self.before[axis] + self.after[axis] - self._reach(axis) - 1) // self.strides[axis] + 1

    def _reach(self, axis: int) -> int:
        """Return the distance between the first and the last element of the kernel."""
        return (self.kernel[axis] - 1) * self.dilations[axis]
