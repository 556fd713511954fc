"""Channels of a set made invisible, and then removed: what both leave must compute the same."""

from collections.abc import Sequence

import numpy as np
import onnx

from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.edit.narrow import narrow
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import LoadedModel, load
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.find.hidden_channels import HiddenChannels, Reader
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import make_constant, unique
from onnx_lowrank.graph.traverse import position


def network_of(model: onnx.ModelProto) -> tuple[Network, LoadedModel]:
    """Return the normalised network, with its fully connected layers, and the model that it is exported with."""
    loaded = load(model)
    return normalise(loaded.proto, gemm=True), loaded


def ignore(network: Network, channels: HiddenChannels, gone: Sequence[int]) -> None:
    """Zero what the readers of a set read of some of its channels."""
    for reader in channels.readers:
        node = network.nodes[position(network, reader.output)]
        weight = node.inputs[1]
        values = np.moveaxis(ComputedConstants(network).find(weight).copy(), column_axis(network, reader), 0)
        for channel in gone:
            first = reader.first + channel * reader.repeat
            values[first : first + reader.repeat] = 0
        values = np.moveaxis(values, 0, column_axis(network, reader))
        node.inputs[1] = make_constant(unique(f"{weight.name}/zeroed", network.taken_names()), values, values.dtype)


def column_axis(network: Network, reader: Reader) -> int:
    """Return the axis of a weight along which its columns lie."""
    node = network.nodes[position(network, reader.output)]
    if node.op == "Conv":
        return 1
    return 1 if node.op == "Gemm" and node.attrs.get("transB", 0) else 0


def zeroed_and_narrowed(
    model: onnx.ModelProto, choices: Sequence[tuple[HiddenChannels, Sequence[int]]]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Return the model in which nobody sees the channels of some sets, and the one in which they are gone.

    Each choice is a set with the channels that stay.
    """
    network, loaded = network_of(model)
    for channels, keep in choices:
        ignore(network, channels, sorted(set(range(channels.count)) - set(keep)))
    zeroed = export(network, loaded)
    for channels, keep in choices:
        narrow(network, channels.makers, keep)
    return zeroed, export(network, loaded)
