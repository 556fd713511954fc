"""Reading a model: from a file or from memory to a checked proto with all its weights, and what the proto declares."""

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError

from onnx_lowrank.errors import ModelError
from onnx_lowrank.files import placeholder
from onnx_lowrank.graph.files.beside import data_files, external_tensors, read_external
from onnx_lowrank.graph.files.check import check, line
from onnx_lowrank.graph.files.order import sort_nodes
from onnx_lowrank.graph.files.stated import misstated
from onnx_lowrank.graph.protos import all_nodes
from onnx_lowrank.interface import TensorSpec


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was given.

    Attributes
    ----------
    proto
        The model with all weights in memory, and its nodes in topological order. Never changed.
    path
        The file it came from; None if it was given as a ModelProto.
    sha256
        The digest of the file (without the weights of an external data file), or of the serialised ModelProto.
    bytes
        The size of the file together with its external data.
    external_data
        Whether the weights were stored beside the file.
    """

    proto: onnx.ModelProto
    path: Path | None
    sha256: str
    bytes: int
    external_data: bool

    @cached_property
    def misstated(self) -> frozenset[str]:
        """Names of the tensors whose stated shapes are wrong; see ``graph.files.stated``."""
        return misstated(self.proto)


_BEGINNINGS = {
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"PK": "a zip archive, as PyTorch saves its own models: unpack it, or export the model to ONNX",
    b"\x80\x02": "a pickle, as PyTorch saves its own models: export the model to ONNX",
    b"\x89HDF": "an HDF5 file, as Keras saves its own models: convert the model to ONNX",
    b"ir_version:": "a model as text: save it in the binary form, with onnx.save",
}
_MARKS = {
    b"TFL3": "a TensorFlow Lite model: convert it to ONNX",
    b"ORTM": "a model in ONNX Runtime's own format: give the .onnx file that it was made from",
}
"""What files of other formats begin with, and what some have behind their first four bytes."""


def load(model: str | os.PathLike[str] | onnx.ModelProto) -> LoadedModel:
    """Read and check a model.

    Parameters
    ----------
    model
        A file, with its external data beside it, or a ModelProto, which is copied.

    Raises
    ------
    ModelError
        If there is no such file, if it is not ONNX, not valid, or its external data is missing or leads outside; see
        ``beside``.
    """
    if isinstance(model, onnx.ModelProto):
        return _from_memory(model)
    path = Path(model)
    label = str(path)
    data = _read(path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        reason = _other_format(data) or f"not an ONNX file, or cut short ({len(data)} bytes); export it again"
        raise ModelError(f"{label}: {reason}") from error
    _refuse_empty(proto, label, data)
    external_data = bool(external_tensors(proto))
    size = len(data) + read_external(proto, path)
    _prepare(proto, label, path)
    return LoadedModel(proto, path, hashlib.sha256(data).hexdigest(), size, external_data)


def weights_files(path: Path) -> set[Path]:
    """Return the files beside a model that hold its weights, or an empty set where the model cannot be read."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, ValueError, DecodeError):
        return set()
    return set(data_files(proto, path))


def inputs(proto: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the model's inputs, without those that only give an initializer a name."""
    stored = {tensor.name for tensor in proto.graph.initializer}
    stored |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return _specs(value for value in proto.graph.input if value.name not in stored)


def outputs(proto: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """Return the model's outputs."""
    return _specs(proto.graph.output)


def opset(proto: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses; 0 where it uses none of them."""
    return next((imported.version for imported in proto.opset_import if imported.domain in ("", "ai.onnx")), 0)


def parameters(proto: onnx.ModelProto) -> int:
    """Return the number of stored values: those of all initializers and of all Constant nodes of the main graph."""
    tensors = list(proto.graph.initializer)
    for node in proto.graph.node:
        if node.op_type == "Constant":
            tensors += [attribute.t for attribute in node.attribute if attribute.name == "value"]
    return sum(math.prod(tensor.dims) for tensor in tensors)


def _from_memory(model: onnx.ModelProto) -> LoadedModel:
    label = "the given ModelProto"
    _refuse_empty(model, label)
    if external_tensors(model):
        raise ModelError(f"{label}: its weights are still in an external data file; give the file's path instead")
    try:
        data = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError(f"{label}: larger than 2 GB; save it with external data and give the path") from error
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _prepare(proto, label, None)
    return LoadedModel(proto, None, hashlib.sha256(data).hexdigest(), len(data), False)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"{path}: a folder; give the .onnx file in it")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({line(error)})") from error
    if not data:
        raise ModelError(f"{path}: empty file; export the model again")
    return data


def _refuse_empty(proto: onnx.ModelProto, label: str, data: bytes = b"") -> None:
    # Random bytes now and then parse as a message that holds nothing known.
    if not proto.HasField("graph") or not proto.graph.node or not proto.opset_import:
        missing = "graph" if not proto.HasField("graph") else "nodes" if not proto.graph.node else "opset"
        reason = _other_format(data) or f"not an ONNX model (it has no {missing}); export it again"
        raise ModelError(f"{label}: {reason}")


def _other_format(data: bytes) -> str | None:
    """Return what a file is instead of an ONNX model, and what to do; None where that is not known."""
    beginnings = (text for start, text in _BEGINNINGS.items() if data.startswith(start))
    found = placeholder(data[:200]) or next(beginnings, None) or _MARKS.get(data[4:8])
    if found is None and data.lstrip()[:1] == b"{":
        found = "JSON: give the model's own file"
    if found is None and data[8:9] == b"{":
        found = "a safetensors file, which holds weights and no network: export the network to ONNX"
    return None if found is None else f"not an ONNX file but {found}"


def _prepare(proto: onnx.ModelProto, label: str, path: Path | None) -> None:
    """Bring a model that ONNX Runtime runs into the form that ONNX demands, in place, and check it.

    The nodes are sorted, the standard domain is spelled as "" where a node or a function spells it out, and an
    initializer that is stored twice stays once. Two that only share their name are left to the check, which refuses
    them: which of them ONNX Runtime takes differs from model to model.
    """
    if len({tensor.name for tensor in proto.graph.initializer}) < len(proto.graph.initializer):
        stored = list(dict.fromkeys(tensor.SerializeToString() for tensor in proto.graph.initializer))
        del proto.graph.initializer[:]
        proto.graph.initializer.extend(map(onnx.TensorProto.FromString, stored))
    inside = (node for part in (proto.graph, *proto.functions) for node in all_nodes(part))
    for owner in (*inside, *proto.functions):
        if owner.domain == "ai.onnx":
            owner.domain = ""
    for part in (proto.graph, *proto.functions):
        sort_nodes(part, label)
    check(proto, label, path)


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    """Return what a model declares of its inputs or outputs.

    Raises
    ------
    ModelError
        If an element type is none of ONNX's.
    """

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        number = value.type.tensor_type.elem_type
        if number not in onnx.TensorProto.DataType.values():
            raise ModelError(f"{value.name!r} has the element type {number}, which ONNX does not know: export it again")
        return TensorSpec(value.name, *_type(value.type))

    return tuple(map(spec, values))


def _type(proto: onnx.TypeProto) -> tuple[np.dtype[Any], tuple[int | str | None, ...] | None]:
    tensor = proto.tensor_type
    if not proto.HasField("tensor_type") or not tensor.elem_type:
        # Sequences, maps and optionals have no element type of their own.
        return np.dtype(object), None
    element = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        return element, None
    return element, tuple(_dimension(dim) for dim in tensor.shape.dim)


def _dimension(dim: Any) -> int | str | None:
    if dim.HasField("dim_value"):
        # Some exporters write -1 or 0 for "unknown".
        return int(dim.dim_value) if dim.dim_value > 0 else None
    # PaddlePaddle calls every unknown size "?", which does not make them equal.
    return None if dim.dim_param in ("", "?") else dim.dim_param
