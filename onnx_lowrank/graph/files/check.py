"""The check of a model: what ONNX Runtime runs is taken, also where ONNX's own checker is stricter."""

from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnx import numpy_helper

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files.external import LARGEST, as_input
from onnx_lowrank.graph.protos import all_nodes, all_tensors, copy_fields

_RUNTIME_DOMAINS = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
"""Domains whose operators ONNX Runtime knows where a model does not import them."""

_INITIALIZERS_ALONE = 4
"""The first IR version in which an initializer need not be an input as well."""


def check(proto: onnx.ModelProto, label: str, path: Path | None) -> None:
    """Check a model with all its weights in memory and its nodes in topological order.

    Parameters
    ----------
    proto
        The model; it is not changed.
    label
        Its name in errors.
    path
        Its file, which saves writing one where the model is too large to be checked from memory; None without one.

    Raises
    ------
    ModelError
        If the model is not valid, or of a version that is not known here.
    """
    for imported in proto.opset_import:
        newest = onnx.defs.onnx_opset_version()
        if imported.domain in ("", "ai.onnx") and not 1 <= imported.version <= newest:
            raise ModelError(
                f"{label}: opset {imported.version} is not one of 1 to {newest}, which the installed onnx "
                f"{onnx.__version__} knows; update onnx, or export with an older opset"
            )
    for node in all_nodes(proto.graph):
        # The checker lets both pass; a name that is not UTF-8 comes as bytes.
        if not all(isinstance(name, str) for name in (node.name, node.op_type, node.domain, *node.input, *node.output)):
            raise ModelError(f"{label}: the name {node.name!r} of a {node.op_type!r}, or of its tensors, is not UTF-8")
        if any(attribute.ref_attr_name for attribute in node.attribute):
            raise ModelError(f"{label}: the node {node.name!r} has an attribute that only a function can give it")
    for function in proto.functions:
        made = {*function.input, *(name for node in function.node for name in node.output)}
        missing = next((name for name in function.output if name not in made), None)
        if missing is not None:  # ONNX Runtime would say so, but inlining comes before it
            raise ModelError(f"{label}: no node of the function {function.name!r} makes its output {missing!r}")
    made_by = {(function.domain, function.name): len(function.output) for function in proto.functions}
    for node in all_nodes(proto.graph):
        if len(node.output) > made_by.get((node.domain, node.op_type), len(node.output)):
            raise ModelError(f"{label}: the node {node.name!r} has more outputs than its function {node.op_type!r}")
    for tensor in all_tensors(proto.graph):
        try:
            # The checker does not ask whether the stored values fill the shape.
            numpy_helper.to_array(tensor)
        except Exception as error:  # what it raises depends on the element type and on the version of onnx
            raise ModelError(f"{label}: the tensor {tensor.name!r} cannot be read ({line(error)})") from error
    flaw = _first_flaw(proto, path)
    if flaw is not None:
        raise ModelError(f"{label}: not a valid ONNX model ({flaw}); export it again")


def find_flaw(proto: onnx.ModelProto, *, full_check: bool = False, largest: int = LARGEST) -> str | None:
    """Return what ONNX's checker has against a model that ONNX Runtime does not forgive, in one line; else None.

    Parameters
    ----------
    proto
        The model, with its weights in memory; it is not changed.
    full_check
        Whether the shapes are inferred and compared as well.
    largest
        Bytes of weights up to which a model is checked from memory.
    """
    flaw = _flaw(proto, full_check, largest)
    return None if flaw is None else _flaw(_forgiven(proto), full_check, largest)


def line(error: BaseException) -> str:
    """Return the text of another library's error as one line of moderate length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 240 else text[:240] + "…"


def _first_flaw(proto: onnx.ModelProto, path: Path | None) -> str | None:
    try:
        onnx.checker.check_model(proto)
        return None
    except (onnx.checker.ValidationError, UnicodeDecodeError):
        pass
    except (EncodeError, ValueError) as error:  # above 2 GB only a file can be checked
        if path is None:
            return f"it cannot be checked: {line(error)}"
        try:
            onnx.checker.check_model(str(path))
            return None
        except Exception:  # of many kinds; the checker follows no links
            pass
    return find_flaw(proto)


def _flaw(proto: onnx.ModelProto, full_check: bool, largest: int) -> str | None:
    with as_input(proto, largest) as source:
        try:
            onnx.checker.check_model(source, full_check=full_check)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            return line(error)
        except UnicodeDecodeError:  # the checker's own message quotes bytes of the model
            return "it is refused by ONNX's checker, and a name or another text in it is not UTF-8"
    return None


def _forgiven(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which everything is mended that the checker refuses and ONNX Runtime does not mind."""
    model = onnx.ModelProto()
    copy_fields(proto, model, {"graph"})
    copy_fields(proto.graph, model.graph, {"output"})
    model.graph.name = proto.graph.name or "graph"
    # An output's type and shape follow from the nodes.
    model.graph.output.extend(value for value in proto.graph.output if _is_described(value))
    for value in model.graph.input:
        if value.type.HasField("tensor_type") and not _is_described(value):
            value.type.tensor_type.shape.SetInParent()
    if 0 < model.ir_version < _INITIALIZERS_ALONE:
        model.ir_version = _INITIALIZERS_ALONE
    imported = {entry.domain for entry in model.opset_import}
    used = {node.domain for node in all_nodes(model.graph)} - imported
    model.opset_import.extend(onnx.helper.make_opsetid(name, 1) for name in _RUNTIME_DOMAINS if name in used)
    return model


def _is_described(value: onnx.ValueInfoProto) -> bool:
    """Whether the type is there and, if it is a tensor's, the shape as well."""
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.HasField("shape"))
