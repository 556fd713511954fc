"""The values of tensors that do not depend on the model's inputs, wherever an exporter has put them."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import typed
from onnx_lowrank.graph.tensors import ELEMENTS, array, dtype, is_sparse
from onnx_lowrank.graph.traverse import varying_tensors

_PLAIN_VALUES = {"value_floats": np.float32, "value_float": np.float32, "value_ints": np.int64, "value_int": np.int64}
"""The attributes of a Constant that hold numbers in place of a tensor, with the types that ONNX gives them."""

_QUANTISE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")


def find_constant(tensor: gs.Tensor) -> NDArray[Any] | None:
    """Return the values of a constant tensor, also behind Constant, Identity or Cast; None for any other tensor."""
    if isinstance(tensor, gs.Constant):
        return None if is_sparse(tensor) else array(tensor).astype(dtype(tensor), copy=False)
    if len(tensor.inputs) != 1:
        return None
    node = tensor.inputs[0]
    if node.domain not in STANDARD:
        return None
    if node.op == "Constant":
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant):
            return find_constant(value)
        for key, element in _PLAIN_VALUES.items():
            if key in node.attrs:
                return np.asarray(node.attrs[key], element)
        return None
    if node.op not in ("Identity", "Cast"):
        return None
    values = find_constant(node.inputs[0])
    if values is None or node.op == "Identity":
        return values
    target = ELEMENTS.get(node.attrs["to"])
    with np.errstate(over="ignore"):
        return None if target is None else values.astype(target)


class ComputedConstants:
    """The constants of one network, including those that ConstantOfShape, Reshape, Transpose and the like compute.

    Parameters
    ----------
    network
        It may be edited between two questions, as long as that changes the value of no tensor.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._varying = varying_tensors(network)
        self._computed: dict[str, NDArray[Any] | None] = {}

    def find(self, tensor: gs.Tensor) -> NDArray[Any] | None:
        """Return a tensor's values; None where they depend on an input, or cannot be computed here."""
        values = find_constant(tensor)
        if values is not None or isinstance(tensor, gs.Constant) or tensor.name in self._varying:
            return values
        if tensor.name not in self._computed:
            self._computed[tensor.name] = self._compute(tensor)
        return self._computed[tensor.name]

    def _compute(self, tensor: gs.Tensor) -> NDArray[Any] | None:
        needed: dict[int, gs.Node] = {}
        stack = [tensor]
        while stack:
            for node in stack.pop().inputs:
                if id(node) not in needed:
                    needed[id(node)] = node
                    stack.extend(node.inputs)
        nodes = [node for node in self._network.nodes if id(node) in needed]
        if len(nodes) < len(needed) or not nodes or any(_stays_computed(node) for node in nodes):
            return None
        model = self._network.piece(nodes, [], [typed(tensor.name, None)])
        try:
            values = ReferenceEvaluator(model).run(None, {})[0]
        except Exception:  # an operator's implementation may raise anything: the weights stay computed
            return None
        return values if isinstance(values, np.ndarray) else None


def _stays_computed(node: gs.Node) -> bool:
    """Whether a node is not evaluated here: one of another domain, one with a body, or a quantisation.

    Weights that come out of a quantisation stay quantised.
    """
    return node.domain not in STANDARD or node.op in _QUANTISE or bool(list(node.subgraphs()))
