"""Channels taken out of the graph, once nobody sees them any more.

Filters of the layers that make them, parameters of the nodes on their way, columns of the layers that read them, the
groups of depthwise convolutions and the numbers of channels in constant shapes: all lose the same channels. The places
are found anew by following the channels through the network as it is now, since a layer may have become a chain by
then.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.channels.layout import Layout
from onnx_lowrank.graph.channels.places import Role
from onnx_lowrank.graph.channels.trace import ChannelTrace, trace_channels
from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import FLOATS, make_constant, unique

Entries = NDArray[np.intp]

_SUFFIX = re.compile(r"/narrowed(_\d+)?$")
"""The end of the name of a constant that has lost entries before."""


def narrow(network: Network, makers: Iterable[str], keep: Sequence[int], *, unseen: bool = True) -> None:
    """Remove channels of one set from a network, in place; see ``narrow_together``."""
    narrow_together(network, [(makers, keep)], unseen=unseen)


def narrow_together(
    network: Network, choices: Iterable[tuple[Iterable[str], Sequence[int]]], *, unseen: bool = True
) -> None:
    """Remove channels of several sets from a network, in place.

    Parameters
    ----------
    network
        It stays as it is where an error is raised.
    choices
        For every set the outputs of the layers that make its channels (``HiddenChannels.makers``), and the indices of
        the channels that stay, ascending and one at least. Chains may have taken the place of layers, as long as they
        make and read the same tensors.
    unseen
        Whether nobody may see the channels that are to go: then no layer that reads them may have weights for them.

    Raises
    ------
    ValidationError
        If the channels are not one set, if something else sees them, or if a layer that reads one of those that are to
        go has a column for it that is not zero.
    """
    trace, stay = trace_channels(network), dict[str, Entries]()
    for makers, keep in choices:
        root, own = _root(trace, tuple(makers)), np.asarray(keep, np.intp)
        count = trace.filters[root]
        if not len(own) or own[0] < 0 or own[-1] >= count or (np.diff(own) < 1).any():
            raise ValidationError(f"{root!r}: the {len(own)} channels that stay are no ascending choice out of {count}")
        if root in stay:
            raise ValidationError(f"the channels of {root!r} are to be removed twice")
        stay[root] = own
    shrinking = {root: own for root, own in stay.items() if len(own) < trace.filters[root]}
    if shrinking:
        _Narrowing(network, trace, shrinking).run(unseen=unseen)


def _root(trace: ChannelTrace, makers: Sequence[str]) -> str:
    """Return the layer that stands for the set of some layers."""
    roots: set[str] = set()
    for maker in makers:
        layout = trace.layouts.get(maker)
        if layout is None or len(layout.parts) != 1 or len(layout.sources) != 1 or layout.parts[0].repeat != 1:
            raise ValidationError(f"{maker!r} is not made by a layer whose channels can be followed")
        roots.add(trace.coupling.root(layout.sources[0]))
    if len(roots) != 1:
        raise ValidationError(f"the channels of {', '.join(map(repr, makers))} are not one set")
    (root,) = roots
    if root in trace.held:
        raise ValidationError(f"the channels of {makers[0]!r} cannot be removed: {trace.held[root]}")
    return root


class _Narrowing:
    """The removal of some channels.

    Parameters
    ----------
    network
        The network that is edited.
    trace
        Its channels.
    stay
        The channels that stay of every set, by the layer that stands for it.
    """

    def __init__(self, network: Network, trace: ChannelTrace, stay: Mapping[str, Entries]) -> None:
        self._network, self._trace, self._stay = network, trace, stay
        self._constants = ComputedConstants(network)
        self._taken = network.taken_names()
        self._made: dict[tuple[str, int, bytes], gs.Constant] = {}
        self._nodes = {node.outputs[0].name: node for node in network.nodes if node.outputs}

    def run(self, *, unseen: bool) -> None:
        """Remove the channels, after a check that nobody sees them where that is to be so."""
        cuts = [cut for cut in self._trace.cuts if self._concerns(cut.layout)]
        for cut in cuts:
            if unseen and cut.role is Role.COLUMN:
                self._check(cut.node, cut.operand, cut.axis, self._entries(cut.layout))
        for cut in cuts:
            self._cut(cut.node, cut.operand, cut.axis, self._entries(cut.layout))
        for extent in self._trace.extents:
            if self._concerns(extent.layout):
                self._count(extent.node, extent.operand, extent.index, len(self._entries(extent.layout)))
        for carrier in self._trace.carriers:
            if self._concerns(carrier.layout):
                self._network.set_attribute(self._nodes[carrier.node], "group", len(self._entries(carrier.layout)))
        for name, layout in self._trace.layouts.items():
            if self._concerns(layout):
                self._network.narrowed[name] = (layout.rank, layout.axis, len(self._entries(layout)))

    def _concerns(self, layout: Layout) -> bool:
        return any(self._trace.coupling.root(source) in self._stay for source in layout.sources)

    def _entries(self, layout: Layout) -> Entries:
        """Return the entries of a layout that stay."""
        kept: list[Entries] = []
        for first, part in layout.starts():
            root = None if part.source is None else self._trace.coupling.root(part.source)
            channels = self._stay.get(root or "", np.arange(part.count))
            kept.append(first + (channels[:, None] * part.repeat + np.arange(part.repeat)).reshape(-1))
        return np.concatenate(kept)

    def _check(self, output: str, operand: int, axis: int, entries: Entries) -> None:
        """Refuse a weight that does not ignore the entries that are to go."""
        values = self._values(self._nodes[output].inputs[operand])
        seen = np.delete(values, entries, axis)
        if seen.any():
            largest = float(np.abs(seen.astype(np.float64)).max())
            raise ValidationError(
                f"{output!r} reads channels that are to go, with weights of up to {largest:.3g}; please report this"
            )

    def _cut(self, output: str, operand: int, axis: int, entries: Entries) -> None:
        node = self._nodes[output]
        old = node.inputs[operand]
        key = old.name, axis, entries.tobytes()
        if key not in self._made:
            self._made[key] = self._constant(old.name, np.take(self._values(old), entries, axis))
        self._put(node, operand, self._made[key])

    def _count(self, output: str, operand: int, index: int, number: int) -> None:
        """Change a number in a constant shape."""
        node = self._nodes[output]
        old = node.inputs[operand]
        values = self._values(old).copy()
        values.reshape(-1)[index] = number
        self._put(node, operand, self._constant(old.name, values))

    def _put(self, node: gs.Node, operand: int, constant: gs.Constant) -> None:
        # Others may read the old constant, so it is left as it is.
        old = node.inputs[operand]
        node.inputs[operand] = constant
        self._network.remove_unread(old)

    def _values(self, tensor: gs.Tensor) -> NDArray[np.generic]:
        values = self._constants.find(tensor)
        assert values is not None  # a place is a constant
        return values

    def _constant(self, name: str, values: NDArray[np.generic]) -> gs.Constant:
        new = unique(_SUFFIX.sub("", name) + "/narrowed", self._taken)
        constant = make_constant(new, values, values.dtype) if values.dtype in FLOATS else gs.Constant(new, values)
        assert constant is not None  # its values have been stored in this type before
        return constant
