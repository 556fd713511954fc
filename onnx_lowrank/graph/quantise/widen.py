"""Half precision taken for single precision inside a model, whose inputs and outputs stay as they are.

Integer kernels stand beside single precision: what rounds to 8 bits would gain nothing from half precision in between.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT

TYPES = ("to", "dtype", "output_dtype")
"""Attributes that name the type of what a node makes."""


def has_half(proto: onnx.ModelProto) -> bool:
    """Whether a model stores a weight in half precision."""
    return any(tensor.data_type == HALF for tensor in proto.graph.initializer) or any(
        own.t.data_type == HALF for node in _nodes(proto) for own in node.attribute if own.HasField("t")
    )


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with single precision in the place of half precision, but for its inputs and outputs."""
    new = onnx.ModelProto()
    new.CopyFrom(proto)
    graph = new.graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored and _is_half(value)]
    outputs = [value for value in graph.output if _is_half(value)]
    taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)} | stored
    taken |= {value.name for value in (*graph.input, *graph.output)}
    kept = [(value.name, _unique(f"{value.name}/single", taken)) for value in (*inputs, *outputs)]
    renamed = dict(kept)
    for node in graph.node:
        _rename(node, renamed)
    for node in _nodes(new):
        _widen_node(node)
    _widen_graph(graph, {value.name for value in (*inputs, *outputs)})
    fed = {value.name for value in inputs}
    casts = {
        name: helper.make_node("Cast", [name], [inner], _unique(f"{name}/cast", taken), to=SINGLE)
        if name in fed
        else helper.make_node("Cast", [inner], [name], _unique(f"{name}/cast", taken), to=HALF)
        for name, inner in kept
    }
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend(casts[name] for name in fed)
    graph.node.extend(body)
    graph.node.extend(casts[value.name] for value in outputs if value.name not in fed)
    return new


def _is_half(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.elem_type == HALF)


def _unique(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes of a model, also those of bodies and functions."""
    yield from _inside(proto.graph.node)
    for function in proto.functions:
        yield from _inside(function.node)


def _inside(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for own in node.attribute:
            for body in (*([own.g] if own.HasField("g") else []), *own.graphs):
                yield from _inside(body.node)


def _rename(node: onnx.NodeProto, names: dict[str, str]) -> None:
    """Give the tensors of a node, and those that its bodies take from outside, other names."""
    for tensors in (node.input, node.output):
        tensors[:] = [names.get(name, name) for name in tensors]
    for own in node.attribute:
        for body in (*([own.g] if own.HasField("g") else []), *own.graphs):
            for inner in body.node:
                _rename(inner, names)
            for value in body.output:
                value.name = names.get(value.name, value.name)


def _widen_node(node: onnx.NodeProto) -> None:
    for own in node.attribute:
        if own.name in TYPES and own.type == onnx.AttributeProto.INT and own.i == HALF:
            own.i = SINGLE
        for tensor in (*([own.t] if own.HasField("t") else []), *own.tensors):
            _widen_tensor(tensor)
        for body in (*([own.g] if own.HasField("g") else []), *own.graphs):
            _widen_graph(body, set())


def _widen_graph(graph: onnx.GraphProto, kept: set[str]) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.name not in kept:
            _widen_type(value.type)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == HALF:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _widen_type(kind: onnx.TypeProto) -> None:
    """Widen a type, and those that sequences, optionals and maps consist of."""
    for name in ("tensor_type", "sparse_tensor_type"):
        if kind.HasField(name) and getattr(kind, name).elem_type == HALF:
            getattr(kind, name).elem_type = SINGLE
    for name in ("sequence_type", "optional_type"):
        if kind.HasField(name):
            _widen_type(getattr(kind, name).elem_type)
    if kind.HasField("map_type"):
        _widen_type(kind.map_type.value_type)
