"""How large a model is."""

import math

import onnx


def parameters(proto: onnx.ModelProto) -> int:
    """Return the number of stored values: those of all initializers and of all Constant nodes of the main graph."""
    tensors = list(proto.graph.initializer)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            tensors += [attribute.t for attribute in node.attribute if attribute.name == "value"]
    return sum(math.prod(tensor.dims) for tensor in tensors)
