"""The sizes of a network's tensors, as far as ONNX infers them without running anything."""

import math

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues

from onnx_lowrank.graph.files.stated import SMALL
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import initializer_input
from onnx_lowrank.graph.tensors import is_sparse, tensor_proto

Dimensions = tuple[int | str | None, ...]
"""The size of every axis: a number, the name of a number that the model leaves open, or None where nothing is known."""


def infer_dimensions(network: Network) -> dict[str, Dimensions]:
    """Return the sizes of the tensors whose number of axes is known, by their names.

    What the model states about tensors inside it is not trusted, since edits and some exporters leave it behind. Large
    constants take no part, so that no weight is copied.
    """
    model = onnx.ModelProto(ir_version=max(network.source.ir_version, 4))
    model.opset_import.extend(network.source.opset_import)
    model.functions.extend(network.source.functions)
    model.graph.name = "shapes"
    model.graph.node.extend(network.node_proto(node) for node in network.nodes)
    constants = network.constants()
    model.graph.input.extend(value for value in network.source.graph.input if value.name not in constants)
    for constant in constants.values():
        if is_sparse(constant):
            continue
        if math.prod(constant.shape) <= SMALL:
            model.graph.initializer.append(tensor_proto(constant))
        else:
            model.graph.input.append(_declared(constant))
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except Exception:  # of many kinds: then nothing is known
        return {}
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return {value.name: _dimensions(value.type.tensor_type.shape) for value in values if _has_shape(value.type)}


def _declared(constant: gs.Constant) -> onnx.ValueInfoProto:
    values = constant._values
    lazy = isinstance(values, LazyValues)
    element = values.tensor.data_type if lazy else onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
    return initializer_input(onnx.TensorProto(name=constant.name, data_type=element, dims=constant.shape))


def _has_shape(kind: onnx.TypeProto) -> bool:
    return bool(kind.HasField("tensor_type") and kind.tensor_type.HasField("shape"))


def _dimensions(shape: onnx.TensorShapeProto) -> Dimensions:
    return tuple(dim.dim_value or dim.dim_param or None for dim in shape.dim)
