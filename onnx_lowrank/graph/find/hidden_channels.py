"""Channels between the layers that make them and those that read them: sets that can be removed from the graph.

Channel j of a set is filter j of every maker. It passes through nodes that work channel by channel, is multiplied with
channel j of no other layer than the makers, and ends in columns of the readers alone. Where these columns are zero,
nobody notices if it is gone (``edit/narrow.py`` removes it).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx_lowrank.graph.channels.places import Role
from onnx_lowrank.graph.channels.trace import ChannelTrace, trace_channels
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import count_readers


@dataclass(frozen=True)
class Reader:
    """A layer that reads the channels: a convolution of one group, or a layer that only multiplies and adds.

    Attributes
    ----------
    output, input
        The names of the tensors that it makes and reads.
    first
        The index of the first of its columns that belong to the channels: input channels of a convolution, or inputs
        of a fully connected layer.
    repeat
        The number of consecutive columns of each channel: 1, or the number of positions behind a Flatten.
    """

    output: str
    input: str
    first: int
    repeat: int


@dataclass(frozen=True)
class HiddenChannels:
    """A set of channels, any of which can be removed if one stays at least.

    Attributes
    ----------
    count
        The number of channels.
    makers
        The outputs of the layers whose filter j makes channel j, in topological order. There are several where a gate
        multiplies the features that it is computed from.
    carriers
        The outputs of the depthwise convolutions that the channels pass through, in topological order: filter j of each
        belongs to channel j.
    readers
        In topological order. A layer that reads the same channels at several places stands there as often; one that
        makes a gate may be a maker as well.
    """

    count: int
    makers: tuple[str, ...]
    carriers: tuple[str, ...]
    readers: tuple[Reader, ...]


@dataclass(frozen=True)
class ChannelSurvey:
    """The sets of a network, and why the channels of all other layers stay.

    Attributes
    ----------
    sets
        In the order of their first makers.
    reasons
        A few words by the output of the layer. A depthwise convolution has those of the layer whose channels it
        carries.
    """

    sets: tuple[HiddenChannels, ...]
    reasons: Mapping[str, str]


def find_hidden_channels(network: Network, untouchable: Collection[str] = ()) -> tuple[HiddenChannels, ...]:
    """Return the sets of channels that can be removed; see ``survey_channels``."""
    return survey_channels(network, untouchable).sets


def survey_channels(network: Network, untouchable: Collection[str] = ()) -> ChannelSurvey:
    """Find the sets of channels that can be removed, and the reasons why others cannot.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    untouchable
        Outputs of layers that stay as they are: a set in which one of them takes part is not returned.
    """
    trace = trace_channels(network)
    candidates, obstacles = _candidates(trace), _unsuitable_carriers(trace) | _shared_weights(network)
    reasons = dict(trace.held)
    for root, channels in candidates.items():
        reason = _obstacle(channels, untouchable, obstacles)
        if reason:
            reasons.setdefault(root, reason)
    sets = tuple(channels for root, channels in candidates.items() if root not in reasons)
    return ChannelSurvey(sets, dict(trace.refused) | _by_layer(trace, reasons))


def _by_layer(trace: ChannelTrace, reasons: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons by layers, given by the layers that stand for sets."""
    sources: dict[str, tuple[str, ...]] = {output: (output,) for output in trace.filters}
    sources |= {carrier.node: carrier.layout.sources for carrier in trace.carriers}
    by_layer: dict[str, str] = {}
    for output, own in sources.items():
        roots = dict.fromkeys(trace.coupling.root(source) for source in own)
        if roots.keys() <= reasons.keys():
            by_layer[output] = next((reasons[root] for root in roots), "no layer makes them")
    return by_layer


def _candidates(trace: ChannelTrace) -> dict[str, HiddenChannels]:
    """Return all sets, by the layers that stand for them, whether or not they can be removed."""
    root = trace.coupling.root
    makers: dict[str, list[str]] = {}
    for output in trace.filters:
        makers.setdefault(root(output), []).append(output)
    carriers: dict[str, list[str]] = {one: [] for one in makers}
    readers: dict[str, list[Reader]] = {one: [] for one in makers}
    for carrier in trace.carriers:
        for one in dict.fromkeys(root(source) for source in carrier.layout.sources):
            carriers[one].append(carrier.node)
    for cut in trace.cuts:
        for first, part in cut.layout.starts():
            if cut.role is Role.COLUMN and part.source is not None:
                readers[root(part.source)].append(Reader(cut.node, trace.inputs[cut.node], first, part.repeat))
    return {
        one: HiddenChannels(trace.filters[one], tuple(own), tuple(carriers[one]), tuple(readers[one]))
        for one, own in makers.items()
    }


def _obstacle(channels: HiddenChannels, untouchable: Collection[str], obstacles: Mapping[str, str]) -> str | None:
    """Return why a set that is complete stays all the same; None if it need not."""
    layers = (*channels.makers, *channels.carriers, *(reader.output for reader in channels.readers))
    if not channels.readers:
        return "no layer reads them"
    if channels.count < 2:
        return "there is one channel alone"
    for layer in layers:
        if layer in untouchable:
            return f"{layer!r} stays as it is"
        if layer in obstacles:
            return obstacles[layer]
    return None


def _shared_weights(network: Network) -> dict[str, str]:
    """Return what is wrong with the nodes whose second operand has other readers, by their outputs."""
    readers = count_readers(network)
    shared = (node for node in network.nodes if len(node.inputs) > 1 and readers[node.inputs[1].name] > 1)
    return {node.outputs[0].name: f"the weight of {node.outputs[0].name!r} has other readers" for node in shared}


def _unsuitable_carriers(trace: ChannelTrace) -> dict[str, str]:
    """Return what is wrong with depthwise convolutions whose filter j is not that of channel j, by their outputs."""
    wrong: dict[str, str] = {}
    for carrier in trace.carriers:
        parts = carrier.layout.parts
        if len(parts) != 1:
            wrong[carrier.node] = f"{carrier.node!r} reads other channels beside them"
        elif (carrier.filters, parts[0].repeat) != (1, 1):
            wrong[carrier.node] = f"{carrier.node!r} has several filters for each of them"
    return wrong
