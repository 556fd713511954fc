"""Some neighbouring nodes of a network read as a block, with the weights that may change and the way back for them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.factorise.blocks.block import Block, Weights
from onnx_lowrank.factorise.blocks.convolution import Convolution
from onnx_lowrank.factorise.blocks.depthwise import Depthwise
from onnx_lowrank.factorise.blocks.elementwise import Sum
from onnx_lowrank.graph.blocks.operators import read_node
from onnx_lowrank.graph.blocks.reader import SPREAD, TURNED, BlockReader, CannotBeReadError
from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.find.blocks import Stretch
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import typed
from onnx_lowrank.graph.tensors import FLOATS, dtype
from onnx_lowrank.graph.traverse import count_readers

Array = NDArray[Any]

TRAINED_TYPES = tuple(element for element in FLOATS if element.itemsize <= np.dtype(np.float32).itemsize)
"""The types of weights that may change: those that single precision holds."""


@dataclass(frozen=True)
class ReadBlock:
    """A block, and how its weights are stored in the network.

    Attributes
    ----------
    block
        The block. The names of its inputs and outputs are those of the network.
    weights
        All stored tensors that it reads.
    trained
        The names of those that may change.
    origins
        For each of these its name in the network, and how the block holds it.
    shapes, types
        The shapes and types in the network of those that may change, by the names of the block.
    """

    block: Block
    weights: Weights
    trained: tuple[str, ...]
    origins: Mapping[str, tuple[str, str]]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, np.dtype[Any]]

    def fits(self, weights: Weights) -> bool:
        """Whether new weights fit the ranges of their types."""
        with np.errstate(over="ignore"):
            return all(np.isfinite(values.astype(self.types[name])).all() for name, values in weights.items())

    def as_stored(self, weights: Weights) -> dict[str, Array]:
        """Return new weights by their names in the network, and in the shapes that they have there."""
        stored = {}
        for name, values in weights.items():
            own, how = self.origins[name]
            turned = values.T if how == TURNED else values.swapaxes(0, 1) if how == SPREAD else values
            stored[own] = np.ascontiguousarray(turned).reshape(self.shapes[name])
        return stored


def read_block(
    network: Network,
    stretch: Stretch,
    shapes: Mapping[str, tuple[int, ...]],
    numbers: Mapping[str, Array] = MappingProxyType({}),
) -> ReadBlock | str:
    """Read a stretch of a network.

    Parameters
    ----------
    network
        The network in which the stretch was found, or one of the same model with layers rewritten.
    stretch
        The stretch.
    shapes
        The shapes of the tensors that it reads, for a few samples.
    numbers
        The values, for one sample, of what it reads besides them, such as shapes.

    Returns
    -------
    ReadBlock or str
        The reason in a few words where a node stands in the way.
    """
    inputs = {name: _of_one(shapes[name]) for name in stretch.inputs}
    if min(map(len, inputs.values()), default=0) < 2:
        return "it reads a tensor that has no channels"
    reader = BlockReader(network, ComputedConstants(network), inputs, numbers)
    nodes = stretch.nodes(network)
    try:
        for node in nodes:
            read_node(reader, node, network.opset)
        outputs = tuple(dict.fromkeys(reader.name(name) for name in stretch.outputs))
        if outputs != stretch.outputs or any(name in inputs for name in outputs):
            raise CannotBeReadError("a tensor that it delivers is one that it reads")
    except (CannotBeReadError, ValueError, KeyError) as error:
        return str(error) if isinstance(error, CannotBeReadError) else "its nodes do not fit together"
    made = {node.makes for node in reader.nodes}
    if not outputs or not made.issuperset(outputs):
        return "it delivers what is no tensor of numbers"
    block = Block(tuple(reader.nodes), outputs)
    constants = {tensor.name: tensor for node in nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)}
    trained = _trained(block, reader, constants, count_readers(network), nodes)
    return ReadBlock(
        block,
        reader.weights,
        trained,
        {name: reader.origins[name] for name in trained},
        {name: tuple(constants[reader.origins[name][0]].shape) for name in trained},
        {name: dtype(constants[reader.origins[name][0]]) for name in trained},
    )


def as_model(network: Network, stretch: Stretch, feeds: Mapping[str, Array]) -> onnx.ModelProto:
    """Return a stretch as a model of its own, which reads tensors of the types of ``feeds``."""
    inputs = [typed(name, value.dtype) for name, value in feeds.items()]
    return network.piece(stretch.nodes(network), inputs, [typed(name, None) for name in stretch.outputs])


def _trained(
    block: Block,
    reader: BlockReader,
    constants: Mapping[str, gs.Constant],
    readers: Counter[str],
    nodes: list[gs.Node],
) -> tuple[str, ...]:
    """Return the weights and biases of layers, and the constants that are added to channels, that nobody else reads."""
    inside = Counter(name for node in nodes for name in (tensor.name for tensor in node.inputs))
    held = Counter(origin for origin, _ in reader.origins.values())
    names: dict[str, None] = {}
    for node in block.nodes:
        if isinstance(node.operator, Convolution | Depthwise):
            names |= dict.fromkeys(node.reads[1:])
        elif isinstance(node.operator, Sum):
            names |= dict.fromkeys(name for name in node.reads if name in reader.weights and _is_bias(reader, name))
    free = []
    for name in names:
        origin = reader.origins.get(name, ("", ""))[0]
        constant = constants.get(origin)
        owned = constant is not None and held[origin] == 1 and readers[origin] == inside[origin]
        if owned and dtype(constant) in TRAINED_TYPES and np.isfinite(reader.weights[name]).all():
            free.append(name)
    return tuple(free)


def _is_bias(reader: BlockReader, name: str) -> bool:
    values = reader.weights[name]
    return values.size == len(values) > 1


def _of_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of one sample with its channels first."""
    return (shape[1], 1, *shape[2:]) if len(shape) > 1 else shape
