"""Which tensors are constant, wherever the exporter has put their values."""

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse

STANDARD = (None, "", "ai.onnx")
"""The ways to write the domain of the standard operators."""

_PLAIN_VALUES = {"value_floats": np.float32, "value_float": np.float32, "value_ints": np.int64, "value_int": np.int64}
"""Attributes of a Constant that hold numbers in place of a tensor, with the types that ONNX gives them."""


def find_constant(tensor: gs.Tensor) -> NDArray[Any] | None:
    """Return the values of a tensor that is constant, also behind Constant, Identity or Cast; None for any other."""
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
    wanted = {number: element for element, number in FLOATS.items()}.get(node.attrs["to"])
    with np.errstate(over="ignore"):
        return None if wanted is None else values.astype(wanted)
