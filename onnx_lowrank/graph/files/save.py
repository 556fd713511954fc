"""From the edited network back to a file that differs from the original in the rewritten nodes alone."""

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import IO

import onnx

from onnx_lowrank.errors import EnvironmentFault
from onnx_lowrank.graph.files.external import LARGEST, externalise, must_be_external
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.protos import copy_fields, initializer_input, names_read
from onnx_lowrank.graph.tensors import is_sparse, tensor_proto

Replace = Callable[[Path, Path], object]
"""Puts the first file in the place of the second one."""

_EDITED = {"node", "initializer", "sparse_initializer", "input", "value_info", "quantization_annotation"}
"""The fields of a graph that are not simply the original's."""


def rename(source: Path, target: Path) -> None:
    """Put a file in the place of another one, in one step."""
    source.replace(target)


def export(network: Network, original: LoadedModel) -> onnx.ModelProto:
    """Turn the network back into a model.

    graphsurgeon's own export forgets doc strings, metadata and more, so only nodes, and constants that are new or
    replaced, come from the graph: everything else is the original's, less what belonged to tensors that no longer
    exist, and less stated shapes that are wrong (``LoadedModel.misstated``).

    Parameters
    ----------
    network
        Made from ``original.proto`` and edited.
    original
        The model it came from.

    Returns
    -------
    onnx.ModelProto
        With the original's IR version, opsets, functions, metadata, doc strings, inputs and outputs.
    """
    source = original.proto
    model = onnx.ModelProto()
    copy_fields(source, model, {"graph"})
    copy_fields(source.graph, model.graph, _EDITED)
    model.graph.node.extend(network.node_protos())
    stored_before = {tensor.name for tensor in source.graph.initializer}
    _store_constants(network, source.graph, model.graph)
    stored = {tensor.name for tensor in model.graph.initializer}
    model.graph.input.extend(
        value for value in source.graph.input if value.name not in stored_before or value.name in stored
    )
    if source.ir_version < 4:
        listed = {value.name for value in model.graph.input}
        model.graph.input.extend(
            initializer_input(tensor) for tensor in model.graph.initializer if tensor.name not in listed
        )
    names = stored | {tensor.values.name for tensor in model.graph.sparse_initializer}
    names |= {value.name for value in model.graph.input}
    names |= {name for node in model.graph.node for name in node.output}
    stated = names - original.misstated
    kept = (value for value in source.graph.value_info if value.name in stated)
    model.graph.value_info.extend(_narrowed(value, network.narrowed.get(value.name)) for value in kept)
    model.graph.quantization_annotation.extend(
        annotation for annotation in source.graph.quantization_annotation if annotation.tensor_name in names
    )
    return model


def write(
    proto: onnx.ModelProto,
    path: str | os.PathLike[str],
    *,
    external_data: bool,
    largest: int = LARGEST,
    replace: Replace = rename,
) -> None:
    """Write a model so that either all of it is there in the end or nothing has changed.

    Parameters
    ----------
    proto
        It is not changed.
    path
        The file; one that is there is replaced.
    external_data
        Whether to put the weights into ``<name>.data`` beside the file.
    largest
        Bytes of weights from which on they are put there in any case.
    replace
        Every step that others can see is one call of this function.

    Raises
    ------
    EnvironmentFault
        If it cannot be written there.
    """
    target = Path(path)
    _refuse(target)
    try:
        _write(proto, target, replace, external=external_data or must_be_external(proto, largest))
    except OSError as error:
        raise EnvironmentFault(_complaint(target, error)) from error


def data_file(model: Path) -> Path:
    """Return the file beside a model that holds its weights where the model does not."""
    return model.with_name(model.name + ".data")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Find out, before the work is done, whether a file can be written; no trace is left.

    Raises
    ------
    EnvironmentFault
        If it cannot.
    """
    target = Path(path)
    _refuse(target)
    probe = _beside(target)
    try:
        with probe.open("xb"):
            pass
        probe.unlink()
    except OSError as error:
        raise EnvironmentFault(_complaint(target, error)) from error


def _narrowed(value: onnx.ValueInfoProto, channels: tuple[int, int, int] | None) -> onnx.ValueInfoProto:
    """Return what is stated about a tensor, with the number of channels that it has now (``Network.narrowed``)."""
    if channels is None:
        return value
    rank, axis, count = channels
    new = onnx.ValueInfoProto()
    new.CopyFrom(value)
    shape = new.type.tensor_type.shape
    if len(shape.dim) == rank:
        shape.dim[axis].dim_value = count
    else:
        new.type.tensor_type.ClearField("shape")
    return new


def _store_constants(network: Network, source: onnx.GraphProto, target: onnx.GraphProto) -> None:
    """Store the original's constants, less those that have lost their readers, and the network's new ones."""
    read = {name for node in target.node for name in names_read(node)}
    read |= {tensor.name for tensor in network.outputs}
    read_before = {name for node in source.node for name in names_read(node)}
    dropped = read_before - read
    target.initializer.extend(
        network.replaced.get(tensor.name, tensor) for tensor in source.initializer if tensor.name not in dropped
    )
    target.sparse_initializer.extend(
        tensor for tensor in source.sparse_initializer if tensor.values.name not in dropped
    )
    stored = {tensor.name for tensor in source.initializer}
    target.initializer.extend(
        tensor_proto(constant)
        for name, constant in network.constants().items()
        if name in read and name not in stored and not is_sparse(constant)
    )


def _refuse(target: Path) -> None:
    if target.is_dir():
        raise EnvironmentFault(f"{target}: cannot be written: it is a folder; give the name of a file")
    if target.exists() and not target.is_file():
        # Renaming over /dev/null would replace the device.
        raise EnvironmentFault(f"{target}: cannot be written: it is not an ordinary file; give the name of a file")
    if not target.parent.is_dir():
        raise EnvironmentFault(f"{target}: cannot be written: there is no folder {target.parent}; make it first")


def _complaint(target: Path, error: OSError) -> str:
    return f"{target}: cannot be written ({error.strerror or error}); give another place or make room"


def _beside(target: Path) -> Path:
    # Not tempfile.mkstemp, which would make the model unreadable for everyone else.
    return target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")


def _write(proto: onnx.ModelProto, target: Path, replace: Replace, *, external: bool) -> None:
    with contextlib.ExitStack() as cleaning:
        new_model, new_data, old_model, old_data = (_temporary(target, cleaning) for _ in range(4))
        data = data_file(target)
        if external:
            with new_data.open("xb") as stream:
                proto = externalise(proto, stream, data.name)
                _flush(stream)
        with new_model.open("xb") as stream:
            stream.write(proto.SerializeToString(deterministic=True))
            _flush(stream)
        try:
            if external and data.exists():
                # Two files cannot be replaced at once. Where the process is killed half-way, no model must be there:
                # the old one would read the new weights.
                if target.exists():
                    replace(target, old_model)
                replace(data, old_data)
            if external:
                replace(new_data, data)
            replace(new_model, target)
        except BaseException:
            if external and new_model.exists():
                if not new_data.exists():
                    data.unlink(missing_ok=True)
                for old, place in ((old_data, data), (old_model, target)):
                    if old.exists():
                        replace(old, place)
            raise


def _temporary(target: Path, cleaning: contextlib.ExitStack) -> Path:
    path = _beside(target)
    cleaning.callback(path.unlink, missing_ok=True)
    return path


def _flush(stream: IO[bytes]) -> None:
    stream.flush()
    os.fsync(stream.fileno())
