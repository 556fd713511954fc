"""What is known about a network while its channels are followed from node to node."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.channels.coupling import Coupling
from onnx_lowrank.graph.channels.layout import Layout, Part
from onnx_lowrank.graph.channels.places import Carrier, Cut, Extent, Role
from onnx_lowrank.graph.channels.shapes import Dimensions, infer_dimensions
from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import count_readers


@dataclass(frozen=True)
class Size:
    """One number of a shape that the network holds or computes.

    Attributes
    ----------
    value
        The number, where it is constant.
    counts
        The tensor and the axis whose entries it counts, where it does.
    place
        The node that reads it as a constant, the operand, and the index in it; None where it is computed.
    """

    value: float | None = None
    counts: tuple[str, int] | None = None
    place: tuple[str, int, int] | None = None


class Tracing:
    """The state of one walk over a network.

    Parameters
    ----------
    network
        It is not changed.

    Attributes
    ----------
    network
        As given.
    layouts
        The layouts of the tensors whose channels have been followed so far.
    sizes
        The shapes that have been followed so far, as vectors; a single number is a vector of one.
    filters
        The number of channels that each layer makes.
    coupling
        The sets of these layers.
    cuts, extents, carriers
        The places that have an entry for each channel.
    refused
        Why the channels that a layer makes are not followed, by its output.
    readers
        The number of readers of every tensor.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layouts: dict[str, Layout] = {}
        self.sizes: dict[str, tuple[Size, ...]] = {}
        self.filters: dict[str, int] = {}
        self.coupling = Coupling()
        self.cuts: list[Cut] = []
        self.extents: list[Extent] = []
        self.carriers: list[Carrier] = []
        self.refused: dict[str, str] = {}
        self.readers: Counter[str] = count_readers(network)
        self._constants = ComputedConstants(network)
        self._dimensions = infer_dimensions(network)

    def layout(self, tensor: gs.Tensor) -> Layout | None:
        """Return the layout of a tensor, where its channels have been followed."""
        return self.layouts.get(tensor.name)

    def constant(self, tensor: gs.Tensor) -> NDArray[np.generic] | None:
        """Return the values of a constant; None for any other tensor."""
        return self._constants.find(tensor)

    def constant_shape(self, tensor: gs.Tensor) -> tuple[int, ...] | None:
        """Return the shape of a constant, without reading a stored one; None for any other tensor."""
        if isinstance(tensor, gs.Constant):
            return tuple(tensor.shape)
        values = self.constant(tensor)
        return None if values is None else values.shape

    def whole_numbers(self, node: gs.Node, attribute: str, operand: int) -> tuple[int, ...] | None:
        """Return numbers that are an attribute in older opsets and a constant input in newer ones; None without any."""
        if attribute in node.attrs:
            return tuple(int(value) for value in np.atleast_1d(node.attrs[attribute]))
        if len(node.inputs) <= operand or not node.inputs[operand].name:
            return None
        values = self.constant(node.inputs[operand])
        return None if values is None else tuple(int(value) for value in values.reshape(-1))

    def dimensions(self, name: str) -> Dimensions | None:
        """Return the size of every axis of a tensor; None where not even their number is known."""
        known = self._dimensions.get(name)
        layout = self.layouts.get(name)
        if layout is None:
            return known
        if known is None or len(known) != layout.rank:
            known = (None,) * layout.rank
        return (*known[: layout.axis], layout.size, *known[layout.axis + 1 :])

    def rank(self, tensor: gs.Tensor) -> int | None:
        """Return the number of a tensor's axes, where it is known."""
        dimensions = self.dimensions(tensor.name)
        return None if dimensions is None else len(dimensions)

    def positions(self, name: str) -> int | None:
        """Return the number of entries that a tensor has behind the channels' axis, for each of its channels."""
        behind = (self.dimensions(name) or ())[self.layouts[name].axis + 1 :]
        numbers = [size for size in behind if isinstance(size, int)]
        return math.prod(numbers) if len(numbers) == len(behind) else None

    def shape_of(self, node: gs.Node, operand: int) -> tuple[Size, ...] | None:
        """Return the numbers of a shape that a node reads; None where they cannot be followed."""
        tensor = node.inputs[operand]
        if tensor.name in self.sizes:
            return self.sizes[tensor.name]
        values = self.constant(tensor)
        if values is None or values.ndim > 1 or values.size > 64:
            return None
        output = node.outputs[0].name
        return tuple(
            Size(value=float(value), place=(output, operand, index)) for index, value in enumerate(values.reshape(-1))
        )

    def counts_channels(self, size: Size) -> Layout | None:
        """Return the layout whose entries a number counts."""
        if size.counts is None:
            return None
        name, axis = size.counts
        layout = self.layouts.get(name)
        return layout if layout is not None and layout.axis == axis else None

    def make(self, output: str, rank: int, axis: int, count: int) -> Layout:
        """Add a layer that makes channels, and return the layout of its output."""
        self.filters[output] = count
        self.coupling.add(output)
        return Layout(rank, axis, (Part(output, count),))

    def cut(self, node: gs.Node, operand: int, axis: int, layout: Layout, role: Role) -> None:
        """Note a constant operand that has an entry for every entry of a layout."""
        self.cuts.append(Cut(node.outputs[0].name, operand, axis, layout, role))

    def cut_aligned(self, node: gs.Node, operand: int, layout: Layout, role: Role = Role.PARAMETER) -> bool:
        """Note a constant that is broadcast to a tensor of this layout, as far as it differs from channel to channel.

        Returns
        -------
        bool
            False where it is not constant, or is not broadcast to the layout's entries one by one.
        """
        shape = self.constant_shape(node.inputs[operand])
        if shape is None or len(shape) > layout.rank:
            return False
        axis = len(shape) - (layout.rank - layout.axis)
        if axis < 0 or shape[axis] == 1:
            return True
        if shape[axis] != layout.size:
            return False
        self.cut(node, operand, axis, layout, role)
        return True

    def hold(self, layout: Layout | None, reason: str) -> None:
        """Let all channels of a layout stay."""
        for source in layout.sources if layout else ():
            self.coupling.hold(source, reason)

    def meet(self, one: Layout, other: Layout, reason: str, *, united: bool = False) -> bool:
        """Note that two tensors meet channel by channel.

        Parameters
        ----------
        one, other
            Their layouts.
        reason
            Why layers that are not in one set have to stay.
        united
            Whether they become one set instead.

        Returns
        -------
        bool
            False where their channels do not correspond.
        """
        shapes = [[(part.count, part.repeat) for part in layout.parts] for layout in (one, other)]
        if shapes[0] != shapes[1]:
            return False
        for left, right in zip(one.parts, other.parts, strict=True):
            if left.source is None or right.source is None:
                self._hold_part(left, reason)
                self._hold_part(right, reason)
            elif united:
                self.coupling.unite(left.source, right.source)
            else:
                self.coupling.expect_one_set(left.source, right.source, reason)
        return True

    def _hold_part(self, part: Part, reason: str) -> None:
        if part.source is not None:
            self.coupling.hold(part.source, reason)


def label(node: gs.Node) -> str:
    """Return how a node is called in a reason."""
    return f"{node.op} {node.name or node.outputs[0].name!r}"


def numbers(sizes: Sequence[Size]) -> list[int | None]:
    """Return the constant numbers among the sizes."""
    return [None if size.value is None else int(size.value) for size in sizes]
