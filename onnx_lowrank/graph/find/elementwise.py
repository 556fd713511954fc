"""The value of small elementwise subgraphs: exporters spell one function in many ways, but it has one graph of values.

GELU alone comes as x·½·(1 + erf(x/√2)) with its factors in any order, with a division or a multiplication, through its
tanh form with x³ as a power or as products. Walking every spelling would miss the next exporter's; evaluating the nodes
at some points does not.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import scipy.special
from numpy.typing import NDArray

from onnx_lowrank.graph.constants import find_constant
from onnx_lowrank.graph.kinds import STANDARD

Array = NDArray[np.float64]


def _softplus(x: Array) -> Array:
    return np.logaddexp(x, 0)


_OPERATORS: dict[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "Neg": np.negative,
    "Abs": np.abs,
    "Reciprocal": np.reciprocal,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Log": np.log,
    "Erf": scipy.special.erf,
    "Tanh": np.tanh,
    "Sigmoid": scipy.special.expit,
    "Softplus": _softplus,
    "Relu": lambda x: np.maximum(x, 0),
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
}
"""Operators without attributes."""

_ATTRIBUTED = ("Clip", "HardSigmoid")


def evaluate(node: gs.Node, known: Mapping[str, Array]) -> Array | None:
    """The values of a node's output where those of some tensors are given.

    Parameters
    ----------
    node
        Any node.
    known
        Values at the same points, by the tensor's name.

    Returns
    -------
    Array or None
        None unless the node is elementwise in known tensors and constants of one element.
    """
    if node.domain not in STANDARD or len(node.outputs) != 1 or node.op not in (*_ATTRIBUTED, *_OPERATORS):
        return None
    bounds = clip_bounds(node) if node.op == "Clip" else None
    operands: list[Array] = []
    for tensor in node.inputs[:1] if bounds else node.inputs:
        constant = None if tensor.name in known else scalar(tensor)
        if constant is None and tensor.name not in known:
            return None
        operands.append(known[tensor.name] if constant is None else np.asarray(constant))
    with np.errstate(all="ignore"):
        if node.op == "Clip":
            return None if bounds is None else np.clip(operands[0], *bounds)
        if node.op == "HardSigmoid":
            alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
            return np.clip(alpha * operands[0] + beta, 0, 1)
        return np.asarray(_OPERATORS[node.op](*operands), np.float64)


def scalar(tensor: gs.Tensor) -> float | None:
    """The value of a constant of one element; None for any other tensor."""
    values = find_constant(tensor)
    if values is not None:
        return float(values.reshape(-1)[0]) if values.size == 1 else None
    if len(tensor.inputs) == 1 and tensor.inputs[0].inputs:
        # Some exporters leave √2 to be computed.
        computed = evaluate(tensor.inputs[0], {})
        return float(computed.reshape(-1)[0]) if computed is not None and computed.size == 1 else None
    return None


def clip_bounds(node: gs.Node) -> tuple[float, float] | None:
    """(lower, upper) of a Clip, in attributes before opset 11, in inputs since; None where they are not constant."""
    bounds = [node.attrs.get("min", -np.inf), node.attrs.get("max", np.inf)]
    for index, tensor in enumerate(node.inputs[1:3]):
        if tensor.name:
            value = scalar(tensor)
            if value is None:
                return None
            bounds[index] = value
    return (float(bounds[0]), float(bounds[1]))
