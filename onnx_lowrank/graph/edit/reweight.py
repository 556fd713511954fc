"""Layers with new weights."""

from collections.abc import Mapping
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.find.dense import DenseLayer, other_operand
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import copy_fields
from onnx_lowrank.graph.tensors import dtype, make_constant, tensor_proto
from onnx_lowrank.graph.traverse import position

Array = NDArray[Any]

_DATA = {field.name for field in onnx.TensorProto.DESCRIPTOR.fields} - {"doc_string", "metadata_props"}
"""All fields of a stored tensor but those that describe it to a reader."""


def replace_weights(network: Network, layer: DenseLayer, weight: Array | None, bias: Array | None) -> bool:
    """Give a layer new weights under the old names, in the old types, in place.

    Parameters
    ----------
    network
        The network that the layer was found in, or another one of the same model.
    layer
        It owns its weight, where a new one is given, and its bias likewise (``intercept``).
    weight
        [d, p]; None leaves the weight that is there.
    bias
        [d]; None leaves the bias that is there.

    Returns
    -------
    bool
        False where the new weights do not fit the range of the type: then nothing is changed.
    """
    product, last = (network.nodes[position(network, name)] for name in (layer.output, layer.target))
    edits = []
    if weight is not None:
        edits.append((product, 1, weight if product.attrs.get("transB", 0) else weight.T))
    if bias is not None:
        edits.append((last, 2 if last is product else other_operand(last, layer.output), bias))
    constants = [_like(reader.inputs[index], values) for reader, index, values in edits]
    if any(constant is None for constant in constants):
        return False
    for (reader, index, _), constant in zip(edits, constants, strict=True):
        reader.inputs[index] = constant
        # An export takes what the original stores under a name unless it is told otherwise.
        network.replaced[constant.name] = tensor_proto(constant)
    return True


def replace_stored(network: Network, values: Mapping[str, Array]) -> None:
    """Give stored tensors that only nodes of the main graph read new values, in place.

    Parameters
    ----------
    network
        The network.
    values
        The values by the names of the tensors, in the shapes that they have, and within the range of their types.
    """
    new: dict[str, gs.Constant] = {}
    for node in network.nodes:
        for index, tensor in enumerate(node.inputs):
            if isinstance(tensor, gs.Constant) and tensor.name in values:
                if tensor.name not in new:
                    new[tensor.name] = _like(tensor, values[tensor.name])
                    network.replaced[tensor.name] = tensor_proto(new[tensor.name])
                node.inputs[index] = new[tensor.name]


def _like(old: gs.Constant, values: Array) -> Any:
    """Make a constant with name, shape, type and description of another one; None where the values overflow."""
    new = make_constant(old.name, values.reshape(old.shape), dtype(old))
    if new is not None:
        copy_fields(tensor_proto(old), tensor_proto(new), _DATA)
    return new
