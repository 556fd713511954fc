"""What is known of a block while its nodes are read one after the other.

Every operator runs once, on a sample of zeros, as soon as it is read. So the shapes of all tensors are known, and what
follows from shapes alone, such as the target of a Reshape, is a number like any constant.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.factorise.blocks.block import Node, Weights
from onnx_lowrank.factorise.blocks.operator import Operator
from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import typed

Array = NDArray[Any]

AS_STORED, TURNED, SPREAD = "as stored", "turned", "spread"
"""How a block holds a stored tensor: as it is, transposed, or as an operand with as many axes as the other one and its
channels first."""


class CannotBeReadError(Exception):
    """A node stands in the way; the text says which."""


class BlockReader:
    """The part of a block that has been read.

    Parameters
    ----------
    network
        The network.
    constants
        Its constants.
    inputs
        The shapes, for one sample and with channels first, of the tensors that the block is given.
    numbers
        The values, for one sample, of other tensors that it is given, such as shapes.

    Attributes
    ----------
    nodes
        The nodes up to now.
    weights
        The stored tensors that they read, float32, by the names under which they read them.
    origins
        The name of each in the network, and how the block holds it.
    """

    def __init__(
        self,
        network: Network,
        constants: ComputedConstants,
        inputs: Mapping[str, tuple[int, ...]],
        numbers: Mapping[str, Array],
    ) -> None:
        self._network, self._constants = network, constants
        self._values: dict[str, Array] = {name: np.zeros(shape, np.float32) for name, shape in inputs.items()}
        self._fixed: dict[str, Array] = dict(numbers)
        self._same: dict[str, str] = {}
        self.nodes: list[Node] = []
        self.weights: Weights = {}
        self.origins: dict[str, tuple[str, str]] = {}

    def name(self, tensor: gs.Tensor | str) -> str:
        """Return the name under which the block holds a tensor that it is given or makes."""
        name = tensor if isinstance(tensor, str) else tensor.name
        return self._same.get(name, name)

    def varies(self, tensor: gs.Tensor) -> bool:
        """Whether a tensor is given or made by the block."""
        return self.name(tensor) in self._values

    def shape(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """Return the shape of a tensor for one sample, with channels first."""
        if not self.varies(tensor):
            raise CannotBeReadError(f"{tensor.name!r} does not depend on what the block reads")
        return self._values[self.name(tensor)].shape

    def axis(self, index: int, axes: int) -> int:
        """Return where the block has an axis of a tensor with so many axes; that of the samples cannot be named."""
        index += axes if index < 0 else 0
        if index == 0:
            raise CannotBeReadError("an operator mixes samples")
        return 0 if index == 1 else index

    def fixed(self, tensor: gs.Tensor) -> Array | None:
        """Return the values of a tensor, as ONNX has them, if they follow from constants and shapes."""
        if tensor.name in self._fixed:
            return self._fixed[tensor.name]
        return None if self.varies(tensor) else self._constants.find(tensor)

    def stored(self, tensor: gs.Tensor, how: str, axes: int = 0) -> str:
        """Hold a constant tensor of floating type and return the name of it.

        Parameters
        ----------
        tensor
            The tensor.
        how
            ``AS_STORED``, ``TURNED`` or ``SPREAD``.
        axes
            The number of axes of the other operand, where it is spread.
        """
        values = self.fixed(tensor)
        if values is None or values.dtype.kind not in "fV":
            raise CannotBeReadError(f"{tensor.name!r} is no constant")
        name = tensor.name if how == AS_STORED else f"{tensor.name} {how}"
        if name not in self.weights:
            held = values.astype(np.float32)
            if how == TURNED:
                held = np.ascontiguousarray(held.T)
            elif how == SPREAD:
                held = spread(held, axes)
            self.weights[name] = held
            if isinstance(tensor, gs.Constant):
                self.origins[name] = tensor.name, how
        return name

    def made(self, values: Array) -> str:
        """Hold new values and return the name of them."""
        name = f"values {len(self.weights)}"
        self.weights[name] = values.astype(np.float32)
        return name

    def add(self, operator: Operator, reads: Sequence[str], makes: gs.Tensor | str) -> None:
        """Add a node, which reads tensors by the names under which the block holds them."""
        name = makes if isinstance(makes, str) else makes.name
        inputs = [self._values[read] if read in self._values else self.weights[read] for read in reads]
        self._values[name] = operator.forward(*inputs)[0]
        self.nodes.append(Node(operator, tuple(reads), name))

    def rename(self, old: gs.Tensor, new: gs.Tensor) -> None:
        """Let a tensor be the same as another one."""
        self._same[new.name] = self.name(old)

    def compute(self, node: gs.Node) -> bool:
        """Compute a node whose outputs follow from constants and shapes, and return whether it is one."""
        if node.op == "Shape" and node.domain in STANDARD and self.varies(node.inputs[0]) and not node.attrs:
            self._fixed[node.outputs[0].name] = np.array(_as_onnx(self.shape(node.inputs[0])), np.int64)
            return True
        known = {tensor.name: self.fixed(tensor) for tensor in node.inputs if tensor.name}
        if any(values is None for values in known.values()) or node.domain not in STANDARD:
            return False
        names = [tensor.name for tensor in node.outputs]
        given = {name: values for name, values in known.items() if values is not None}
        model = self._network.piece([node], [], [typed(name, None) for name in names])
        del model.graph.initializer[:]
        model.graph.input.extend(typed(name, values.dtype) for name, values in given.items())
        try:
            results = ReferenceEvaluator(model).run(None, given)
        except Exception:  # an operator's implementation may raise anything
            return False
        self._fixed.update(zip(names, map(np.asarray, results), strict=True))
        return True


def spread(values: Array, axes: int) -> Array:
    """Return an operand with so many axes, of which the first counts channels and the second samples."""
    if values.ndim > axes:
        raise CannotBeReadError("a constant has more axes than what it is combined with")
    wide = values.reshape((1,) * (axes - values.ndim) + values.shape)
    if axes < 2 or wide.shape[0] != 1:
        raise CannotBeReadError("a constant differs from sample to sample")
    return np.ascontiguousarray(wide.swapaxes(0, 1))


def _as_onnx(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[1], shape[0], *shape[2:])
