"""Reading a model: from a file or from memory to a checked proto with all its weights, and what the proto declares."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import external_data_helper, numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files.stated import misstated
from onnx_lowrank.graph.protos import bodies
from onnx_lowrank.interface import TensorSpec


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was given.

    Attributes
    ----------
    proto
        The model with all weights in memory. Never changed.
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


def load(model: str | os.PathLike[str] | onnx.ModelProto) -> LoadedModel:
    """Read and check a model.

    Parameters
    ----------
    model
        A file, with its external data beside it, or a ModelProto, which is copied.

    Raises
    ------
    ModelError
        If there is no such file, if it is not ONNX, not valid, or its external data is missing.
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
        raise ModelError(f"{label}: not an ONNX file, or cut short ({len(data)} bytes); export it again") from error
    _refuse_empty(proto, label)
    external = [tensor for tensor in _tensors(proto.graph) if external_data_helper.uses_external_data(tensor)]
    if external:
        try:
            external_data_helper.load_external_data_for_model(proto, str(path.parent))
        except Exception as error:
            # Depending on the version of onnx: ValidationError, OSError, ValueError.
            raise ModelError(
                f"{label}: its external data cannot be read ({_line(error)}); put the data file beside the model"
            ) from error
    for tensor in external:
        # Loading writes out the default, which the original did not.
        tensor.ClearField("data_location")
    _check(proto, label, path)
    size = len(data) + sum(len(tensor.raw_data) for tensor in external)
    return LoadedModel(proto, path, hashlib.sha256(data).hexdigest(), size, bool(external))


def weights_files(path: Path) -> set[Path]:
    """Return the files beside a model that hold its weights, or an empty set where the model cannot be read."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(path.read_bytes())
    except (OSError, ValueError, DecodeError):
        return set()
    external = (tensor for tensor in _tensors(proto.graph) if external_data_helper.uses_external_data(tensor))
    return {path.parent / external_data_helper.ExternalDataInfo(tensor).location for tensor in external}


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
    if any(external_data_helper.uses_external_data(tensor) for tensor in _tensors(model.graph)):
        raise ModelError(f"{label}: its weights are still in an external data file; give the file's path instead")
    try:
        data = model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError(f"{label}: larger than 2 GB; save it with external data and give the path") from error
    proto = onnx.ModelProto()
    proto.CopyFrom(model)
    _check(proto, label, None)
    return LoadedModel(proto, None, hashlib.sha256(data).hexdigest(), len(data), False)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise ModelError(f"{path}: a folder; give the .onnx file in it")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read ({_line(error)})") from error
    if not data:
        raise ModelError(f"{path}: empty file; export the model again")
    return data


def _refuse_empty(proto: onnx.ModelProto, label: str) -> None:
    # Random bytes now and then parse as a message that holds nothing known.
    if not proto.HasField("graph") or not proto.graph.node or not proto.opset_import:
        missing = "graph" if not proto.HasField("graph") else "nodes" if not proto.graph.node else "opset"
        raise ModelError(f"{label}: not an ONNX model (it has no {missing}); export it again")


def _check(proto: onnx.ModelProto, label: str, path: Path | None) -> None:
    for imported in proto.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if imported.domain in ("", "ai.onnx") and not 1 <= imported.version <= newest:
            raise ModelError(
                f"{label}: opset {imported.version} is not one of 1 to {newest}, which the installed onnx "
                f"{onnx.__version__} knows; update onnx, or export with an older opset"
            )
    for node in _nodes(proto.graph):
        # The checker lets both pass; a name that is not UTF-8 comes as bytes.
        if not all(isinstance(name, str) for name in (node.name, node.op_type, node.domain, *node.input, *node.output)):
            raise ModelError(f"{label}: the name {node.name!r} of a {node.op_type!r}, or of its tensors, is not UTF-8")
        if any(attribute.ref_attr_name for attribute in node.attribute):
            raise ModelError(f"{label}: the node {node.name!r} has an attribute that only a function can give it")
    for tensor in _tensors(proto.graph):
        try:
            # The checker does not ask whether the stored values fill the shape.
            numpy_helper.to_array(tensor)
        except Exception as error:  # what it raises depends on the element type and on the version of onnx
            raise ModelError(f"{label}: the tensor {tensor.name!r} cannot be read ({_line(error)})") from error
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{label}: not a valid ONNX model ({_line(error)}); export it again") from error
    except (EncodeError, ValueError) as error:
        # Above 2 GB only a file can be checked.
        if path is None:
            raise ModelError(f"{label}: cannot be checked ({_line(error)}); give a file instead") from error
        try:
            onnx.checker.check_model(str(path))
        except Exception as failure:
            raise ModelError(f"{label}: not a valid ONNX model ({_line(failure)}); export it again") from failure


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:240] + "…"


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
        for body in bodies(node):
            yield from _tensors(body)


def _specs(values: Iterable[onnx.ValueInfoProto]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(value.name, *_type(value.type)) for value in values)


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
