"""Weights in a file of their own, beside the model: where the input has them there, and where one file is too small.

A protobuf message holds 2 GB at most, so a larger model can only be handed on as files.
"""

import contextlib
import hashlib
import io
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import onnx
from onnx import numpy_helper

from onnx_lowrank.graph.protos import copy_fields

LARGEST = 2**31 - 2**24
"""Bytes of weights that fit into one message, which cannot be larger than 2 GiB; the nodes need some of it."""

_SMALLEST_APART = 1024
"""Bytes from which on a tensor is stored apart; onnx itself has the same limit."""

_ALIGNMENT = 4096
"""Bytes of a page: ONNX Runtime maps the file, and tensors that begin with a page need no copy."""

_VALUES = {"raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"}


def must_be_external(proto: onnx.ModelProto, largest: int = LARGEST) -> bool:
    """Whether the weights take more than ``largest`` bytes, and so are too large for one file."""
    return sum(map(_stored_bytes, proto.graph.initializer)) > largest


def externalise(proto: onnx.ModelProto, stream: IO[bytes] | io.RawIOBase, location: str) -> onnx.ModelProto:
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
        if _stored_bytes(tensor) < _SMALLEST_APART or tensor.data_type == onnx.TensorProto.STRING:
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


@contextlib.contextmanager
def as_input(proto: onnx.ModelProto, largest: int = LARGEST) -> Iterator[bytes | str]:
    """Yield a model as a library takes it: serialised, or the path of a temporary file where it is too large for that.

    The files, in ``TMPDIR``, are gone afterwards.

    Parameters
    ----------
    proto
        With its weights in memory; it is not changed.
    largest
        Bytes of weights up to which the model is serialised.
    """
    if not must_be_external(proto, largest):
        yield proto.SerializeToString()
        return
    # Windows does not remove a file that a session still maps.
    with tempfile.TemporaryDirectory(prefix="onnx-lowrank-", ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "model.onnx"
        data = path.with_name("weights")
        with data.open("wb") as stream:
            outside = externalise(proto, stream, data.name)
        path.write_bytes(outside.SerializeToString())
        yield str(path)


def fingerprint(proto: onnx.ModelProto, largest: int = LARGEST) -> tuple[str, int]:
    """Return the SHA-256 of the model's file, and the size of all its files, in bytes.

    Parameters
    ----------
    proto
        With its weights in memory; it is not changed.
    largest
        Bytes of weights up to which the model is one file.
    """
    weights_bytes = 0
    if must_be_external(proto, largest):
        counter = _Counter()
        proto = externalise(proto, counter, "weights")
        weights_bytes = counter.tell()
    serialised = proto.SerializeToString(deterministic=True)
    return hashlib.sha256(serialised).hexdigest(), len(serialised) + weights_bytes


class _Counter(io.RawIOBase):
    """A stream that keeps nothing but its position."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0

    def write(self, content: Any) -> int:
        self._position += len(content)
        return len(content)

    def seek(self, position: int, whence: int = 0) -> int:
        self._position = position
        return position

    def tell(self) -> int:
        return self._position


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes, about, of a tensor as it is stored; protobuf would serialise it to find out."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return int(tensor.ByteSize())
    return int(math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
