"""Tensors whose channels may be multiplied by factors of their own, because only weights see what they read.

Where the responses of layers reach other layers through nothing but sums, pooling and homogeneous activations, as in a
residual stream, channel j may be multiplied by any positive number in all of them: the filters that make it take the
factor in, and the weights that read it divide by it. Where no activation is in between, the number may be negative.
Between a single layer and a single reader, channels may even be mixed (``factorise/rounding/basis.py``).
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.placement import Surroundings

HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})
"""Activations r with r(a x) = a r(x) for a > 0."""

LINEAR = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout"})
"""Operators that work on every channel by itself and pass on a positive factor."""


@dataclass
class Stream:
    """Tensors whose channels go together.

    Attributes
    ----------
    tensors
        In topological order.
    makers, readers
        The outputs of the layers that make one of the tensors, and of those that read one.
    signed
        Whether factors may be negative.
    """

    tensors: list[str] = field(default_factory=list)
    makers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)
    signed: bool = True


def find_streams(network: Network, layers: Collection[str]) -> list[Stream]:
    """Return the streams of a network, in the order of their first tensors.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    layers
        The outputs of the layers whose weights may change. Each of them has its channels on axis 1 of what it reads and
        makes, and its weight to itself.
    """
    around = Surroundings(network)
    joined = _Joined()
    held: set[str] = {tensor.name for tensor in (*network.inputs, *network.outputs)}
    positive: set[str] = set()  # tensors at an activation
    for node in around.nodes:
        outputs = [tensor.name for tensor in node.outputs if tensor.name]
        operands = around.operands(node)
        inside = set(network.reads(node)) - {tensor.name for tensor in node.inputs}
        if outputs and outputs[0] in layers:
            held |= inside | set(operands[1:])
            continue
        passing = _passes(node, operands)
        if not passing or len(outputs) != 1 or inside:
            held |= inside | set(operands) | set(outputs)
            continue
        for operand in operands:
            joined.join(operand, outputs[0])
        if node.op in HOMOGENEOUS or node.op == "MaxPool" or node.op == "GlobalMaxPool":
            positive.add(outputs[0])
    streams: dict[str, Stream] = defaultdict(Stream)
    for node in around.nodes:
        for tensor in node.outputs:
            root = joined.root(tensor.name)
            streams[root].tensors.append(tensor.name)
            if tensor.name in layers:
                streams[root].makers.append(tensor.name)
            streams[root].signed &= tensor.name not in positive
        if node.outputs and node.outputs[0].name in layers:
            streams[joined.root(node.inputs[0].name)].readers.append(node.outputs[0].name)
    stay = {joined.root(name) for name in held}
    return [own for root, own in streams.items() if root not in stay and own.makers and own.readers]


def _passes(node: gs.Node, operands: list[str]) -> bool:
    """Whether a node passes on factors of the channels of all its operands, to which nothing else is added."""
    if node.domain not in STANDARD:
        return False
    if node.op == "Add":
        return len(operands) == 2 and len(set(operands)) == 2
    return node.op in HOMOGENEOUS | LINEAR and len(operands) == 1 == len(node.inputs)


class _Joined:
    """Names that have been joined to groups."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        """Return the name that stands for the group of this one."""
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def join(self, one: str, other: str) -> None:
        """Make one group of those of two names."""
        self._parent[self.root(other)] = self.root(one)
