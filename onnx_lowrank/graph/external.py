"""Weights in a file of their own, beside the model."""

from typing import IO

import onnx
from onnx import numpy_helper

from onnx_lowrank.graph.protos import copy_fields

# A single protobuf message cannot be larger than 2 GiB; the nodes need some of it.
_LARGEST = 2**31 - 2**24
# Smaller tensors stay in the file, as onnx itself does it.
_EXTERNAL_FROM = 1024
# ONNX Runtime maps the file; tensors on page boundaries need no copy.
_ALIGNMENT = 4096
_VALUES = {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"}


def must_be_external(proto: onnx.ModelProto) -> bool:
    """Whether the weights are too large for one file."""
    # The whole may be too large for protobuf to measure.
    size: int = sum(tensor.ByteSize() for tensor in proto.graph.initializer)
    return size > _LARGEST


def externalise(proto: onnx.ModelProto, stream: IO[bytes], location: str) -> onnx.ModelProto:
    """Write the large initializers to a stream and return a model that refers to them.

    Parameters
    ----------
    proto
        With its weights in memory; it is not changed.
    stream
        At its beginning.
    location
        The name that the stream's file will have beside the model.
    """
    model = onnx.ModelProto()
    copy_fields(proto, model, {"graph"})
    copy_fields(proto.graph, model.graph, {"initializer"})
    for tensor in proto.graph.initializer:
        stored = model.graph.initializer.add()
        if tensor.ByteSize() < _EXTERNAL_FROM or tensor.data_type == onnx.TensorProto.STRING:
            stored.CopyFrom(tensor)
            continue
        raw = tensor.raw_data or numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        offset = -(-stream.tell() // _ALIGNMENT) * _ALIGNMENT
        stream.seek(offset)
        stream.write(raw)
        copy_fields(tensor, stored, _VALUES)
        stored.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", offset), ("length", len(raw))):
            stored.external_data.add(key=key, value=str(value))
    return model
