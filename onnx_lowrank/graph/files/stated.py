"""Shapes that a model states for tensors inside it, and that its own nodes do not make.

An exporter that moves nodes about without correcting the stated shapes leaves such shapes behind. ONNX Runtime takes
the original all the same, as long as other statements contradict them; where a rewritten node takes one of those away,
the wrong shape decides.
"""

import math

import onnx

from onnx_lowrank.graph.protos import copy_fields, initializer_input

SMALL = 1024
"""Elements of the largest constants that may be shapes, which have to be known to infer other shapes."""


def misstated(proto: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the tensors whose stated shape contradicts what ONNX infers from the inputs and the nodes.

    A tensor whose shape ONNX does not infer is not among them, such as one behind a node of another domain, or one
    inside a body.
    """
    stated = {value.name: value.type for value in proto.graph.value_info if _has_shape(value.type)}
    if not stated:
        return frozenset()
    try:
        # Shapes that nodes compute, for a Reshape, are followed as well.
        inferred = onnx.shape_inference.infer_shapes(without_statements(proto), data_prop=True).graph.value_info
    except Exception:  # of many kinds: what cannot be inferred contradicts nothing
        return frozenset()
    return frozenset(
        value.name
        for value in inferred
        if value.name in stated and _has_shape(value.type) and _contradict(value.type, stated[value.name])
    )


def without_statements(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without stated shapes and without large constants, which become inputs."""
    bare = onnx.ModelProto()
    copy_fields(proto, bare, {"graph"})
    copy_fields(proto.graph, bare.graph, {"initializer", "value_info"})
    listed = {value.name for value in bare.graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in listed:
            bare.graph.input.append(initializer_input(tensor))
    return bare


def _has_shape(kind: onnx.TypeProto) -> bool:
    return bool(kind.HasField("tensor_type") and kind.tensor_type.HasField("shape"))


def _contradict(one: onnx.TypeProto, other: onnx.TypeProto) -> bool:
    """Whether no tensor can have both shapes; an unknown dimension contradicts nothing."""
    first, second = one.tensor_type.shape.dim, other.tensor_type.shape.dim
    if len(first) != len(second):
        return True
    pairs: list[tuple[int, int]] = [(a.dim_value, b.dim_value) for a, b in zip(first, second, strict=True)]
    # Some exporters write -1 or 0 for "unknown".
    return any(a != b for a, b in pairs if a > 0 and b > 0)
