"""Channels of a set made invisible, changed, and removed: what is left must compute the same."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.edit.narrow import narrow_together
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import LoadedModel, load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.hidden_channels import HiddenChannels, Reader
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import make_constant, unique
from onnx_lowrank.graph.traverse import position

Choice: TypeAlias = tuple[HiddenChannels, Sequence[int]]
"""A set and some of its channels."""


def network_of(model: onnx.ModelProto) -> tuple[Network, LoadedModel]:
    """Return the normalised network, with its fully connected layers, and the model that it is exported with."""
    loaded = load(model)
    return normalise(loaded.proto, gemm=True), loaded


def ignore(network: Network, readers: Iterable[Reader], channels: Iterable[int]) -> None:
    """Zero what some readers read of some channels."""
    for reader in readers:

        def zero(columns: NDArray[Any], reader: Reader = reader) -> None:
            for channel in channels:
                first = reader.first + channel * reader.repeat
                columns[first : first + reader.repeat] = 0

        edit_weight(network, reader.output, zero, along_filters=False)


def edit_weight(network: Network, output: str, edit: Callable[[NDArray[Any]], None], *, along_filters: bool) -> None:
    """Change the weight of a layer; ``edit`` is given a view that has filters, or columns, along its first axis."""
    node = network.nodes[position(network, output)]
    weight = node.inputs[1]
    stored = ComputedConstants(network).find(weight)
    assert stored is not None
    values = stored.copy()
    by_inputs = node.op in ("MatMul", "ConvTranspose") or (node.op == "Gemm" and not node.attrs.get("transB", 0))
    edit(np.moveaxis(values, int(along_filters == by_inputs), 0))
    node.inputs[1] = make_constant(unique(f"{weight.name}/edited", network.taken_names()), values, values.dtype)
    network.remove_unread(weight)


def ignoring(model: onnx.ModelProto, gone: Iterable[Choice]) -> onnx.ModelProto:
    """Return the model in which the readers of some sets ignore some channels."""
    network, loaded = network_of(model)
    for channels, unseen in gone:
        ignore(network, channels.readers, unseen)
    return export(network, loaded)


def zeroed_and_narrowed(model: onnx.ModelProto, keep: Iterable[Choice]) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the model in which the readers of some sets see the given channels alone, and the one without others."""
    network, loaded = network_of(model)
    keep = list(keep)
    for channels, kept in keep:
        ignore(network, channels.readers, sorted(set(range(channels.count)) - set(kept)))
    zeroed = export(network, loaded)
    narrow_together(network, [(channels.makers, kept) for channels, kept in keep])
    return zeroed, export(network, loaded)


def with_other_filters(model: onnx.ModelProto, channels: HiddenChannels, channel: int) -> onnx.ModelProto:
    """Return the model in which all makers of a set make something else of one channel."""
    network, loaded = network_of(model)

    def change(filters: NDArray[Any]) -> None:
        filters[channel] = 1 - 2 * filters[channel]

    for maker in channels.makers:
        edit_weight(network, maker, change, along_filters=True)
    return export(network, loaded)


def feed(model: onnx.ModelProto, seed: int = 0, **open_sizes: int) -> dict[str, NDArray[Any]]:
    """Return an input for a model of one input, with two samples, or sizes of 8, where its sizes are left open."""
    (value,) = (value for value in model.graph.input if value.name == "x")
    sizes = [
        dim.dim_value or open_sizes.get(dim.dim_param, 2 if axis == 0 else 8)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
    ]
    return {value.name: np.random.default_rng(seed).normal(size=sizes).astype(np.float32)}
