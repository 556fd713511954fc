"""The places of a graph that have an entry for each channel, and so shrink when channels go."""

import enum
from dataclasses import dataclass

from onnx_lowrank.graph.channels.layout import Layout


class Role(enum.Enum):
    """What the entries of a constant are to the channels."""

    FILTER = enum.auto()
    """They make the channels: filters, and their biases."""
    COLUMN = enum.auto()
    """They read the channels: where a channel's entries are zero, nobody sees it."""
    PARAMETER = enum.auto()
    """They belong to a node that works on every channel by itself."""


@dataclass(frozen=True)
class Cut:
    """A constant operand that can be cut along one of its axes.

    Attributes
    ----------
    node
        The output of the node that reads it.
    operand
        Its index among the node's inputs.
    axis
        The axis of the constant.
    layout
        What its entries along this axis belong to.
    role
        What they are.
    """

    node: str
    operand: int
    axis: int
    layout: Layout
    role: Role


@dataclass(frozen=True)
class Extent:
    """A number in a constant shape that counts the entries of a layout.

    Attributes
    ----------
    node
        The output of the node that reads the shape.
    operand
        The shape's index among the node's inputs.
    index
        The index of the number in the shape.
    layout
        What it counts.
    """

    node: str
    operand: int
    index: int
    layout: Layout


@dataclass(frozen=True)
class Carrier:
    """A convolution of one channel a group, whose attribute ``group`` counts the entries of a layout.

    Attributes
    ----------
    node
        Its output.
    layout
        What it reads.
    filters
        The number of responses to every entry.
    """

    node: str
    layout: Layout
    filters: int = 1
