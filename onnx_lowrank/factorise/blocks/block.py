"""A block: operators in the order in which they run, from tensors that it is given to those that it delivers.

The error of a block, for weights w, is the mean over its outputs of

    E(w) = mean (y(w) − t)² / mean (t − t̄)²,

where t is what the original delivers and t̄ its mean in every channel. The mean of the differences is over the positions
that are known (see ``operator.Extent``), so that windows of large maps may take the place of the maps.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.convolution import Convolution
from onnx_lowrank.factorise.blocks.depthwise import Depthwise
from onnx_lowrank.factorise.blocks.operator import Extent, Operator

Array = NDArray[Any]
Weights: TypeAlias = dict[str, Array]
"""The values of stored tensors, by name."""

Known: TypeAlias = Mapping[str, Sequence[NDArray[np.bool_]]]
"""Which positions of tensors are known, by name, along every spatial axis."""


@dataclass(frozen=True)
class Node:
    """One operator, with the names of what it reads and of what it makes."""

    operator: Operator
    reads: tuple[str, ...]
    makes: str


@dataclass(frozen=True)
class Part:
    """Some samples, all of one shape, or the same window of each.

    Attributes
    ----------
    inputs, targets
        What the block reads, and what it is to deliver, by name, float32, with channels first and samples second.
    known
        Which positions of each output, along every spatial axis, a window of the inputs tells; None for whole maps.
    """

    inputs: Mapping[str, Array]
    targets: Mapping[str, Array]
    known: Known | None = None

    @property
    def samples(self) -> int:
        """The number of samples."""
        return int(next(iter(self.targets.values())).shape[1])

    def split(self, samples: int) -> "list[Part]":
        """Return parts of at most so many samples."""
        if self.samples <= samples:
            return [self]
        parts = []
        for start in range(0, self.samples, samples):
            own = slice(start, start + samples)
            inputs, targets = (
                {name: np.ascontiguousarray(value[:, own]) for name, value in values.items()}
                for values in (self.inputs, self.targets)
            )
            parts.append(Part(inputs, targets, self.known))
        return parts


@dataclass(frozen=True)
class Measured:
    """A block in one run.

    Attributes
    ----------
    spreads
        The standard deviation, over samples and positions, of the responses that each bias is added to.
    macs
        The multiply-accumulates of one sample.
    largest
        The number of elements of the largest tensor of one sample.
    """

    spreads: Mapping[str, float]
    macs: int
    largest: int


@dataclass(frozen=True)
class Block:
    """Some nodes in the order in which they run.

    Attributes
    ----------
    nodes
        The nodes.
    outputs
        The names of the tensors that others read.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]

    def run(self, weights: Weights, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outputs by name."""
        values = {**weights, **inputs}
        for node in self.nodes:
            values[node.makes] = node.operator.forward(*(values[name] for name in node.reads))[0]
        return {name: values[name] for name in self.outputs}

    def squares(self, weights: Weights, part: Part) -> dict[str, tuple[float, int]]:
        """Return Σ (y − t)² of every output, and the number of elements that are known."""
        outputs, known = self.run(weights, part.inputs), part.known
        found = {}
        for name, difference in self._differences(outputs, part).items():
            elements = difference.shape[0] * difference.shape[1]
            sides = [int(positions.sum()) for positions in known[name]] if known else difference.shape[2:]
            found[name] = float(np.square(difference).sum(dtype=np.float64)), elements * math.prod(sides)
        return found

    def slopes(self, weights: Weights, trained: Iterable[str], part: Part, scales: Mapping[str, float]) -> Weights:
        """Return the slopes of ½ Σ scale · (y − t)² with respect to some of the weights."""
        values, kept = {**weights, **part.inputs}, []
        for node in self.nodes:
            values[node.makes], own = node.operator.forward(*(values[name] for name in node.reads))
            kept.append(own)
        slopes = {name: scales[name] * value for name, value in self._differences(values, part).items()}
        dependent = self._dependent(trained)
        for node, own in zip(reversed(self.nodes), reversed(kept), strict=True):
            slope = slopes.pop(node.makes, None)
            if slope is None:
                continue
            wanted = [name in dependent for name in node.reads]
            if any(wanted):
                inputs = [values[name] for name in node.reads]
                found = node.operator.backward(slope, inputs, values[node.makes], own, wanted)
                for name, asked, value in zip(node.reads, wanted, found, strict=True):
                    if asked and value is not None:
                        slopes[name] = slopes[name] + value if name in slopes else value
        return {name: slopes[name] if name in slopes else np.zeros_like(weights[name]) for name in trained}

    def known(self, inputs: Mapping[str, Sequence[Extent]]) -> Known | None:
        """Return which positions of each output are known.

        What a window does not tell lies at its borders, unless they are those of the map.

        Parameters
        ----------
        inputs
            What is known of every input along every spatial axis.

        Returns
        -------
        Known or None
            None where a window says nothing.
        """
        extents = dict(inputs)
        for node in self.nodes:
            read = [extents[name] for name in node.reads if name in extents]
            along = [node.operator.extent(axis, [own[axis] for own in read]) for axis in range(min(map(len, read)))]
            if any(extent is None for extent in along):
                return None
            extents[node.makes] = [extent for extent in along if extent]
        return {name: [extent.known for extent in extents[name]] for name in self.outputs}

    @property
    def groups(self) -> dict[str, int]:
        """The number of groups of every weight of a grouped convolution."""
        found = {}
        for node in self.nodes:
            if isinstance(node.operator, Convolution | Depthwise):
                found[node.reads[1]] = node.operator.groups
        return found

    def measure(self, weights: Weights, part: Part) -> Measured:
        """Run the block once, and look at its responses and their costs."""
        values = {**weights, **part.inputs}
        spreads, macs, largest = {}, 0, 1
        for node in self.nodes:
            y = values[node.makes] = node.operator.forward(*(values[name] for name in node.reads))[0]
            if isinstance(node.operator, Convolution | Depthwise):
                macs += weights[node.reads[1]].size * (y.size // y.shape[0] // y.shape[1])
            largest = max(largest, y.size // y.shape[1])
            for name in node.reads:
                if name in weights and weights[name].size == len(weights[name]) == len(y):
                    spreads[name] = float(y.reshape(len(y), -1).std(axis=1).mean())
        return Measured(spreads, macs, largest)

    def _differences(self, values: Mapping[str, Array], part: Part) -> dict[str, Array]:
        """Return y − t of every output, 0 where it is not known."""
        differences = {}
        for name in self.outputs:
            difference = values[name] - part.targets[name]
            for axis, positions in enumerate(part.known[name] if part.known else (), 2):
                if not positions.all():
                    difference *= positions.reshape(-1, *(1,) * (difference.ndim - axis - 1))
            differences[name] = difference
        return differences

    def _dependent(self, trained: Iterable[str]) -> set[str]:
        """Return the names of the tensors that depend on some of the weights."""
        dependent = set(trained)
        for node in self.nodes:
            if not dependent.isdisjoint(node.reads):
                dependent.add(node.makes)
        return dependent
