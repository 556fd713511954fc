"""A network divided into stretches of a few layers each, cut where the least passes through.

A cut lies between two nodes that follow one another. What passes through it are the tensors that are made in front of
it and read behind. In a network of residual blocks that is least behind the additions, in one of inverted bottlenecks
where the maps are narrow, in a plain chain behind the poolings. So the stretches are the blocks that the architect of
the network had in mind, or several of them, or parts of a block that is too large, and no kind of block is sought for.

A cut costs log₂ of how much passes through it, relative to the geometric mean over the cuts around it, and a constant.
The division is the cheapest one into stretches of a bounded number of layers.

The fully connected layers behind all convolutions belong to no stretch. They have one row of each sample, and are
fitted to these in closed form, so that no sample is left that could tell whether they gain.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.kinds import is_convolution, is_dense
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import position, varying_tensors

MOST_LAYERS = 6
"""The layers of a stretch, at most."""

A_CUT = 3.0
"""What every cut costs: where half as much passes through as around it, a cut costs nothing."""

A_LAYER_ALONE, A_LAYER_TOO_MANY = 2.0, 1e3
"""What a stretch of one layer costs, in which there is little to refine together, and each layer beyond the bound."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring nodes of a network, by the names of tensors, which stay when layers are rewritten.

    Attributes
    ----------
    behind
        A tensor that the last node in front of the stretch makes; None where the stretch begins with the network.
    last
        A tensor that the last node of the stretch makes.
    inputs
        The tensors that it reads and that depend on the inputs of the model.
    outputs
        The tensors that it makes and that are read behind it, or are outputs of the model.
    layers
        The outputs of the convolutions and the fully connected layers in it.
    """

    behind: str | None
    last: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[str, ...]

    def start(self, network: Network) -> int:
        """Return the index of its first node."""
        return 0 if self.behind is None else position(network, self.behind) + 1

    def stop(self, network: Network) -> int:
        """Return the index behind its last node."""
        return position(network, self.last) + 1

    def nodes(self, network: Network) -> list[gs.Node]:
        """Return its nodes."""
        return list(network.nodes[self.start(network) : self.stop(network)])


def stretches(network: Network, shapes: Mapping[str, tuple[int, ...]], most: int = MOST_LAYERS) -> tuple[Stretch, ...]:
    """Divide a network into stretches.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    shapes
        The shapes of its tensors, for the same number of samples. Where a tensor passes whose shape is not among them,
        there is no cut.
    most
        The layers of a stretch, at most, where there are cuts.
    """
    varying = varying_tensors(network)
    nodes = network.nodes[: _head(network)]
    passing = _passing(network, varying)[: len(nodes) + 1]
    layers = [int((is_convolution(node) or is_dense(node)) and not _is_constant(node, varying)) for node in nodes]
    around = most * len(nodes) // max(1, sum(layers))
    widths = _widths(passing, shapes)
    cuts = _cheapest(_costs(widths, _last_of_equals(widths, layers), around), layers, most)
    ends = zip([0, *cuts], [*cuts, len(nodes)], strict=True)
    return tuple(_stretch(network, range(start, stop), passing[start], passing[stop], layers) for start, stop in ends)


def _head(network: Network) -> int:
    """Return the index of the first fully connected layer behind all convolutions; the number of nodes without one."""
    kinds = [is_convolution(node) for node in network.nodes]
    last = max((index for index, convolution in enumerate(kinds) if convolution), default=-1)
    behind = (index for index, node in enumerate(network.nodes) if index > last and is_dense(node))
    return next(behind, len(network.nodes)) if last >= 0 else len(network.nodes)


def passing_tensors(network: Network) -> tuple[str, ...]:
    """Return the tensors that pass through some cut, apart from the inputs of the model."""
    fed = {tensor.name for tensor in network.inputs}
    passing = _passing(network, varying_tensors(network))
    return tuple(dict.fromkeys(name for names in passing for name in names if name not in fed))


def _is_constant(node: gs.Node, varying: set[str]) -> bool:
    return not any(tensor.name in varying for tensor in node.outputs)


def _passing(network: Network, varying: set[str]) -> list[list[str]]:
    """Return for every cut, from that in front of the first node on, the tensors that pass through it."""
    last_read = {tensor.name: len(network.nodes) for tensor in network.outputs}
    for index, node in enumerate(network.nodes):
        for name in network.reads(node):
            last_read[name] = max(index, last_read.get(name, 0))
    held = [tensor.name for tensor in network.inputs]
    passing = [[name for name in held if name in last_read]]
    for index, node in enumerate(network.nodes):
        held += [tensor.name for tensor in node.outputs if tensor.name in varying]
        held = [name for name in held if last_read.get(name, -1) > index]
        passing.append(list(held))
    return passing


def _widths(passing: Sequence[Sequence[str]], shapes: Mapping[str, tuple[int, ...]]) -> NDArray[np.float64]:
    """Return log₂ of how much passes through each cut; NaN where not all is known of it."""
    widths = np.full(len(passing), np.nan)
    for cut, names in enumerate(passing):
        if names and all(name in shapes for name in names):
            widths[cut] = math.log2(1 + sum(math.prod(shapes[name]) for name in names))
    return widths


def _last_of_equals(widths: NDArray[np.float64], layers: Sequence[int]) -> NDArray[np.bool_]:
    """Return the cuts that may be taken: not one behind which a node that is no layer lets no more through.

    So a cut lies behind an activation or a pooling rather than in front of it.
    """
    allowed = ~np.isnan(widths)
    for cut, layer in enumerate(layers):
        if not layer and widths[cut + 1] <= widths[cut]:
            allowed[cut] = False
    return allowed


def _costs(widths: NDArray[np.float64], allowed: NDArray[np.bool_], around: int) -> list[float]:
    """Return what each cut costs; infinite where it may not be taken.

    Parameters
    ----------
    widths
        The widths of all cuts.
    allowed
        Whether each may be taken.
    around
        The number of cuts on each side that count as being around a cut.
    """
    costs = []
    for cut, width in enumerate(widths):
        near = widths[max(0, cut - around) : cut + around + 1]
        costs.append(A_CUT + float(width - np.nanmean(near)) if allowed[cut] else math.inf)
    return costs


def _cheapest(costs: Sequence[float], layers: Sequence[int], most: int) -> list[int]:
    """Return the cuts between the stretches, each of which has at least one layer, and at most ``most`` if possible.

    Parameters
    ----------
    costs
        What each cut costs, from that in front of the first node on.
    layers
        The number of layers that each node is.
    """
    before = np.concatenate([[0], np.cumsum(layers)])
    least, previous = np.full(len(costs), math.inf), [0] * len(costs)
    least[0] = 0
    for stop in range(1, len(costs)):
        own = costs[stop] if stop < len(layers) else 0.0
        for start in range(stop - 1, -1, -1):
            count = int(before[stop] - before[start])
            if count > most and math.isfinite(least[stop]):
                break
            total = least[start] + own + A_LAYER_ALONE * (count == 1) + A_LAYER_TOO_MANY * max(0, count - most)
            if count and total < least[stop]:
                least[stop], previous[stop] = total, start
    cuts, stop = [], len(layers)
    while stop and previous[stop]:
        stop = previous[stop]
        cuts.append(stop)
    return cuts[::-1]


def _stretch(
    network: Network, own: range, enters: Sequence[str], leaves: Sequence[str], layers: Sequence[int]
) -> Stretch:
    nodes = network.nodes
    made = {tensor.name for index in own for tensor in nodes[index].outputs}
    read = {name for index in own for name in network.reads(nodes[index])}
    return Stretch(
        behind=None if own.start == 0 else _named(nodes[own.start - 1]),
        last=_named(nodes[own.stop - 1]),
        inputs=tuple(name for name in enters if name in read),
        outputs=tuple(name for name in leaves if name in made),
        layers=tuple(nodes[index].outputs[0].name for index in own if layers[index]),
    )


def _named(node: gs.Node) -> str:
    return next(str(tensor.name) for tensor in node.outputs if tensor.name)
