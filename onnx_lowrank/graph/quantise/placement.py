"""Which tensors are rounded to 8 bits, and who reads them so.

A pair of QuantizeLinear and DequantizeLinear behind a tensor says that it is to be rounded. Runtimes fuse the pairs
around a layer into one integer kernel, and they differ in where they look for them:

* ONNX Runtime wants a pair at every input and at the output of a node. What lies between two integer layers, such as an
  Add, a MaxPool or a Concat, is computed in integers as well if it has pairs; without them the tensors would be
  converted back and forth. A Relu or a Clip that alone reads a result becomes part of the rounding behind it.
* TensorRT and OpenVINO want pairs at the inputs of the layers alone. TensorRT fuses a convolution with the Add that
  takes its response in if the other operand is rounded, and the response is not (NVIDIA TensorRT documentation,
  "Working with Quantized Types": Q/DQ placement).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import varying_tensors

MOVING = frozenset({"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Resize"})
"""The operators that pass on what they read, on the same grid; the first input holds the values."""

ARITHMETIC = frozenset({"Add", "Mul", "AveragePool", "GlobalAveragePool", "Concat", "LeakyRelu", "Sigmoid"})
"""The operators for which ONNX Runtime has integer kernels, with a grid of its own for each input and the output."""

FUSED = frozenset({"Relu", "Clip"})
"""The operators that rounding does as well, because it clips anyway."""


@dataclass(frozen=True)
class Pair:
    """A tensor that is rounded.

    Attributes
    ----------
    tensor
        The tensor.
    like
        The tensor whose grid it shares; None where it has its own.
    readers
        The outputs of the nodes that read it rounded; None for all of them, and for the model's output.
    """

    tensor: str
    like: str | None = None
    readers: tuple[str, ...] | None = None


class Surroundings:
    """Who makes and who reads the tensors of a network."""

    def __init__(self, network: Network) -> None:
        self.nodes = list(network.nodes)
        self.varying = varying_tensors(network)
        self._outputs = {tensor.name for tensor in network.outputs}
        self._readers: dict[str, list[gs.Node]] = defaultdict(list)
        for node in self.nodes:
            for name in network.reads(node):
                self._readers[name].append(node)

    def readers(self, name: str) -> list[gs.Node]:
        """Return the nodes that read a tensor, also from inside their bodies."""
        return self._readers.get(name, [])

    def alone(self, name: str) -> gs.Node | None:
        """Return the node that alone reads a tensor, which is no output of the model; None where there is none."""
        readers = self.readers(name)
        return readers[0] if len(readers) == 1 and name not in self._outputs else None

    def result(self, node: gs.Node) -> str:
        """Return the tensor that a node delivers, behind the Relu or Clip that alone reads it."""
        own: str = node.outputs[0].name
        reader = self.alone(own)
        if reader is not None and reader.op in FUSED and reader.domain in STANDARD and reader.inputs[0].name == own:
            return str(reader.outputs[0].name)
        return own

    def operands(self, node: gs.Node) -> list[str]:
        """Return the tensors that a node reads and that depend on the model's inputs."""
        return [tensor.name for tensor in node.inputs if tensor.name in self.varying]


def around_nodes(network: Network, layers: Collection[str], exact: Collection[str] = ()) -> list[Pair]:
    """Return the pairs for ONNX Runtime: around the layers, and around what lies between them.

    Parameters
    ----------
    network
        Normalised.
    layers
        The outputs of the layers that are quantised. None of them reads or delivers a tensor that stays exact.
    exact
        Tensors that stay as they are.
    """
    around = Surroundings(network)
    between = set(_between(around, layers, exact))
    pairs: dict[str, Pair] = {}
    for node in around.nodes:
        output = node.outputs[0].name if node.outputs else ""
        if output in layers:
            pairs.setdefault(node.inputs[0].name, Pair(node.inputs[0].name))
        elif output not in between:
            continue
        result = around.result(node)
        like = node.inputs[0].name if node.op in MOVING else None
        pairs.setdefault(result, Pair(result, like))
    return list(pairs.values())


def in_front_of_layers(network: Network, layers: Collection[str], exact: Collection[str] = ()) -> list[Pair]:
    """Return the pairs for TensorRT and OpenVINO: at the inputs of the layers, and at what joins their responses.

    The parameters are those of ``around_nodes``.
    """
    around = Surroundings(network)
    readers: dict[str, list[str]] = {}
    for node in around.nodes:
        output = node.outputs[0].name if node.outputs else ""
        if output in layers:
            readers.setdefault(node.inputs[0].name, []).append(output)
        elif node.op == "Add" and node.domain in STANDARD:
            shortcut = _joining(around, node, layers)
            if shortcut is not None and shortcut not in exact:
                readers.setdefault(shortcut, []).append(output)
    return [Pair(tensor, readers=tuple(own)) for tensor, own in readers.items()]


def _joining(around: Surroundings, add: gs.Node, layers: Collection[str]) -> str | None:
    """Return the operand of an Add that joins the response of a layer, which nobody else reads."""
    first, second = (tensor.name for tensor in add.inputs)
    if first == second or not {first, second} <= around.varying:
        return None
    for response, other in ((first, second), (second, first)):
        if response in layers and around.alone(response) is not None:
            return str(other)
    return None


def _between(around: Surroundings, layers: Collection[str], exact: Collection[str]) -> Iterator[str]:
    """Yield the outputs of the nodes all of whose operands are rounded and whose results an integer node reads."""
    made: set[str] = set()  # the tensors that come out of integer nodes
    candidates = []
    for node in around.nodes:
        output = node.outputs[0].name if node.outputs else ""
        if output in layers:
            made.add(around.result(node))
        elif _computes_integers(node) and made.issuperset(_values(around, node)) and around.result(node) not in exact:
            candidates.append(node)
            made.add(around.result(node))
    wanted: set[str] = set()  # the outputs of nodes that read integers
    for node in reversed(candidates):
        readers = [reader.outputs[0].name for reader in around.readers(around.result(node))]
        if any(reader in layers or reader in wanted for reader in readers):
            wanted.add(node.outputs[0].name)
            yield node.outputs[0].name


def _values(around: Surroundings, node: gs.Node) -> list[str]:
    """Return the operands of a node that hold its values, and not sizes or the like."""
    operands = around.operands(node)
    return operands[:1] if node.op in MOVING else operands


def _computes_integers(node: gs.Node) -> bool:
    """Whether runtimes have an integer kernel for a node that is no layer."""
    if node.domain not in STANDARD or len(node.outputs) != 1:
        return False
    if node.op == "Resize":
        return node.attrs.get("mode", "nearest") in ("nearest", "linear")
    if node.op in ("Add", "Mul"):
        return not any(isinstance(tensor, gs.Constant) for tensor in node.inputs)
    return node.op in MOVING or node.op in ARITHMETIC
