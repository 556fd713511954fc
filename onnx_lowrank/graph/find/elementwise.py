"""The values of small elementwise subgraphs: exporters spell one function in many ways, but its values are the same.

GELU alone comes as x·½·(1 + erf(x/√2)) with its factors in any order, with a division or a multiplication, or in its
tanh form with x³ as a power or as products. A list of spellings would miss the next exporter's; evaluating the nodes at
some points does not.
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
"""The operators that are evaluated and have no attributes."""

_ATTRIBUTED = ("Clip", "HardSigmoid")
"""The operators that are evaluated and have attributes."""


def evaluate(node: gs.Node, values: Mapping[str, Array]) -> Array | None:
    """Return the values of a node's output where those of other tensors are given.

    Parameters
    ----------
    node
        Any node.
    values
        The values of some tensors at the same points, by the tensors' names.

    Returns
    -------
    Array or None
        None unless the node is elementwise in these tensors and in constants of one element.
    """
    if node.domain not in STANDARD or len(node.outputs) != 1 or node.op not in (*_ATTRIBUTED, *_OPERATORS):
        return None
    bounds = clip_bounds(node) if node.op == "Clip" else None
    operands: list[Array] = []
    for tensor in node.inputs[:1] if bounds else node.inputs:
        constant = None if tensor.name in values else scalar(tensor)
        if constant is None and tensor.name not in values:
            return None
        operands.append(values[tensor.name] if constant is None else np.asarray(constant))
    with np.errstate(all="ignore"):
        if node.op == "Clip":
            return None if bounds is None else np.clip(operands[0], *bounds)
        if node.op == "HardSigmoid":
            alpha, beta = float(node.attrs.get("alpha", 0.2)), float(node.attrs.get("beta", 0.5))
            return np.clip(alpha * operands[0] + beta, 0, 1)
        return np.asarray(_OPERATORS[node.op](*operands), np.float64)


def scalar(tensor: gs.Tensor) -> float | None:
    """Return the value of a constant of one element; None for any other tensor."""
    constant = find_constant(tensor)
    if constant is not None:
        return float(constant.reshape(-1)[0]) if constant.size == 1 else None
    if len(tensor.inputs) == 1 and tensor.inputs[0].inputs:
        # Some exporters leave √2 to be computed.
        computed = evaluate(tensor.inputs[0], {})
        return float(computed.reshape(-1)[0]) if computed is not None and computed.size == 1 else None
    return None


def clip_bounds(node: gs.Node) -> tuple[float, float] | None:
    """Return (lower, upper) of a Clip; None where they are not constant.

    They are attributes before opset 11, and inputs since.
    """
    bounds = [node.attrs.get("min", -np.inf), node.attrs.get("max", np.inf)]
    for index, tensor in enumerate(node.inputs[1:3]):
        if tensor.name:
            value = scalar(tensor)
            if value is None:
                return None
            bounds[index] = value
    return (float(bounds[0]), float(bounds[1]))
