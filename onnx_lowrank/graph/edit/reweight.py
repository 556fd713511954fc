"""A fully connected layer with new weights."""

from typing import Any

import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.find.dense import LinearSite, _other
from onnx_lowrank.graph.protos import copy_fields
from onnx_lowrank.graph.tensors import dtype, make_constant, tensor_proto
from onnx_lowrank.graph.traverse import position

Array = NDArray[Any]


def replace_weights(graph: gs.Graph, site: LinearSite, weight: Array | None, bias: Array | None) -> bool:
    """Give a layer new weights under the old names, in the old types; None leaves what is there.

    Returns
    -------
    bool
        False where they do not fit the range of the type: then nothing is changed.
    """
    node, last = (graph.nodes[position(graph, name)] for name in (site.output, site.target))
    edits = []
    if weight is not None:
        edits.append((node, 1, weight if node.attrs.get("transB", 0) else weight.T))
    if bias is not None:
        edits.append((last, 2 if last is node else _other(last, site.output), bias))
    made = [(reader, index, _like(reader.inputs[index], values)) for reader, index, values in edits]
    if any(constant is None for _, _, constant in made):
        return False
    for reader, index, constant in made:
        reader.inputs[index] = constant
        # By its name alone, ``export`` would take the original's.
        vars(graph).setdefault("replaced", {})[constant.name] = tensor_proto(constant)
    return True


def _like(old: gs.Constant, values: Array) -> Any:
    """A constant with the name, shape, type, doc string and metadata of another one; None where values overflow."""
    new = make_constant(old.name, values.reshape(old.shape), dtype(old))
    if new is not None:
        copy_fields(tensor_proto(old), tensor_proto(new), _DATA)
    return new


# Everything else of a stored tensor.
_DATA = {field.name for field in onnx.TensorProto.DESCRIPTOR.fields} - {"doc_string", "metadata_props"}
