"""The channels of a whole network, followed from the layers that make them to those that read them.

Every operator that works channel by channel has a function that says where the channels of its output come from, and
notes what would have to be cut with them. Channels that anything else sees, be it a node that mixes them, one that is
not known, a body of an If, or an output of the model, stay.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.channels import joining, layers, pointwise, reshaping, spatial
from onnx_lowrank.graph.channels.computed_shapes import follow_shape
from onnx_lowrank.graph.channels.coupling import Coupling
from onnx_lowrank.graph.channels.layout import Layout
from onnx_lowrank.graph.channels.places import Carrier, Cut, Extent
from onnx_lowrank.graph.channels.tracing import Tracing, label
from onnx_lowrank.graph.kinds import STANDARD, is_convolution, is_dense
from onnx_lowrank.graph.network import Network

Indices = NDArray[np.intp]

Rule = Callable[[Tracing, gs.Node], Layout | str | None]
"""Returns the layout of a node's first output, the reason why its channels are not followed, or None where the
channels that it reads are not followed either."""

_RULES: Mapping[str, Rule] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.convolution,
    "Gemm": layers.fully_connected,
    "MatMul": layers.fully_connected,
    "BatchNormalization": pointwise.normalisation,
    "InstanceNormalization": pointwise.normalisation,
    "Dropout": pointwise.dropout,
    "Concat": joining.concat,
    "SpaceToDepth": joining.space_to_depth,
    "Pad": spatial.pad,
    "Resize": spatial.resize,
    "Upsample": spatial.resize,
    "Expand": spatial.expand,
    "Slice": spatial.crop,
    "Squeeze": spatial.squeeze,
    "Unsqueeze": spatial.unsqueeze,
    "Transpose": spatial.transpose,
    "Flatten": reshaping.flatten,
    "Reshape": reshaping.reshape,
    **dict.fromkeys(pointwise.UNARY, pointwise.unary),
    **dict.fromkeys(pointwise.BROADCAST, pointwise.broadcast),
    **dict.fromkeys(spatial.POOLS, spatial.pool),
    **dict.fromkeys(spatial.REDUCTIONS, spatial.reduction),
}

_ALL_OPERANDS = (*pointwise.BROADCAST, "Concat")
"""Operators whose rules look at the layouts of all operands; those of the others look at the first."""

_SHAPE_OPERANDS = ("Expand", "Reshape", "Resize", "Upsample")
"""Operators whose rules look at the numbers in a shape."""


@dataclass(frozen=True)
class ChannelTrace:
    """Where the channels of every tensor come from.

    Attributes
    ----------
    layouts
        The layouts of the tensors whose channels are known, by the tensors' names.
    filters
        The number of channels that each layer makes, by the layer's output, in topological order.
    coupling
        The sets that these layers form.
    held
        Why sets stay, by the layers that stand for them.
    refused
        Why the channels of other layers are not followed, by the layers' outputs.
    cuts, extents, carriers
        The places that have an entry for each channel, in topological order.
    inputs
        The first input of every node, by the node's first output.
    """

    layouts: Mapping[str, Layout]
    filters: Mapping[str, int]
    coupling: Coupling
    held: Mapping[str, str]
    refused: Mapping[str, str]
    cuts: tuple[Cut, ...]
    extents: tuple[Extent, ...]
    carriers: tuple[Carrier, ...]
    inputs: Mapping[str, str]


def entries_left(trace: ChannelTrace, tensor: str, stay: Mapping[str, Indices], axis: int) -> Indices | None:
    """Return which entries of a tensor stay along an axis if only some channels do; None where that is not known.

    Parameters
    ----------
    trace
        Of the network with all channels.
    tensor
        The name of the tensor.
    stay
        The channels that stay, ascending, by the outputs of the layers that make them; those of others all do.
    axis
        The axis of the channels.
    """
    layout = trace.layouts.get(tensor)
    if layout is None or layout.axis != axis:
        return None
    entries = []
    for first, part in layout.starts():
        channels = stay.get(part.source) if part.source else None
        if channels is None:
            channels = np.arange(part.count)
        entries.append(first + (channels[:, None] * part.repeat + np.arange(part.repeat)).ravel())
    return np.concatenate(entries)


def trace_channels(network: Network) -> ChannelTrace:
    """Follow the channels of every layer through a network, which is not changed."""
    tracing = Tracing(network)
    for node in network.nodes:
        _visit(tracing, node)
    for output in network.outputs:
        _hold(tracing, [output.name], f"they are the output {output.name!r} of the model")
    return ChannelTrace(
        tracing.layouts,
        tracing.filters,
        tracing.coupling,
        tracing.coupling.reasons(),
        tracing.refused,
        tuple(tracing.cuts),
        tuple(tracing.extents),
        tuple(tracing.carriers),
        {node.outputs[0].name: node.inputs[0].name for node in network.nodes if node.inputs and node.outputs},
    )


def _visit(tracing: Tracing, node: gs.Node) -> None:
    if node.domain in STANDARD and node.outputs and follow_shape(tracing, node):
        return
    rule = _RULES.get(node.op) if node.domain in STANDARD and node.inputs and node.outputs else None
    layout = rule(tracing, node) if rule else f"{label(node)} is not followed"
    if not isinstance(layout, Layout):
        if layout and (is_convolution(node) or is_dense(node)):
            tracing.refused[node.outputs[0].name] = layout
        _hold(tracing, tracing.network.reads(node), layout or f"{label(node)} computes with their number")
        return
    tracing.layouts[node.outputs[0].name] = layout
    if node.op not in _ALL_OPERANDS:
        # Such as a bound of a Clip that a layer computes.
        shapes = node.op in _SHAPE_OPERANDS
        others = [tensor.name for tensor in node.inputs[1:] if not (shapes and tensor.name in tracing.sizes)]
        _hold(tracing, others, f"{label(node)} computes with them")


def _hold(tracing: Tracing, names: Iterable[str], reason: str) -> None:
    """Let the channels of some tensors stay, and those that a shape among them counts."""
    for name in names:
        tracing.hold(tracing.layouts.get(name), reason)
        for size in tracing.sizes.get(name, ()):
            tracing.hold(tracing.counts_channels(size), reason)
