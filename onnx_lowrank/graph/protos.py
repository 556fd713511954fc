"""Helpers for ONNX protos alone: what is inside nodes and graphs, fields to copy, inputs and outputs to declare."""

from collections.abc import Container, Iterator
from typing import Any

import numpy as np
import onnx


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs among a node's attributes, such as the branches of an If."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph or function and of the bodies in it, every owner in front of what is in its bodies."""
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from all_nodes(body)


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield the tensors that a graph and the bodies in it store, as initializers or as attributes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in bodies(node):
            yield from all_tensors(body)


def names_in(graph: onnx.GraphProto) -> set[str]:
    """Return all names of a graph and of the bodies in it: those of its tensors and of its nodes."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)}
    names |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
        for body in bodies(node):
            names |= names_in(body)
    return names


def names_from_outside(body: onnx.GraphProto) -> Iterator[str]:
    """Yield the names of the tensors that a body reads and does not make itself, some of them repeatedly."""
    own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    own |= {tensor.values.name for tensor in body.sparse_initializer}
    own |= {name for node in body.node for name in node.output}
    read = [name for node in body.node for name in node.input]
    read += [name for node in body.node for inner in bodies(node) for name in names_from_outside(inner)]
    read += [value.name for value in body.output]
    return (name for name in read if name and name not in own)


def names_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names of the tensors that a node reads, also from inside its bodies, some of them repeatedly."""
    yield from filter(None, node.input)
    for body in bodies(node):
        yield from names_from_outside(body)


def copy_fields(source: Any, target: Any, omitted: Container[str]) -> None:
    """Copy all fields of a proto but those named by ``omitted``, which may be too large to copy in vain."""
    for field, value in source.ListFields():
        if field.name in omitted:
            continue
        if hasattr(value, "extend"):
            getattr(target, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def initializer_input(tensor: onnx.TensorProto) -> onnx.ValueInfoProto:
    """Return the input that IR versions below 4 want beside every initializer."""
    value: Any = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
    return value


def typed(name: str, dtype: np.dtype[Any] | int | None) -> onnx.ValueInfoProto:
    """Return an input or output of a piece; without a type, ONNX Runtime infers it.

    The type may be NumPy's or the number that ONNX gives it. No shape is declared: a piece takes whatever the piece
    before it made.
    """
    if dtype is None:
        return onnx.ValueInfoProto(name=name)
    number = dtype if isinstance(dtype, int) else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    value: Any = onnx.helper.make_tensor_value_info(name, number, None)
    return value
