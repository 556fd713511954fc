"""The nodes of a network in an order in which layers that share a weight are reached together.

Layers with one set of factors are solved at one time, in front of the first of them. All layers that any of them
depends on should be solved by then, so that the inputs of all show the errors made so far. A file may well list the
last of these layers behind the first member: one level of a pyramid after the other, each with its head. So the members
wait until what all of them read is there. They cannot wait where one of them depends on another, as in an unrolled
loop, nor where two families wait for one another; such a family keeps its place in the file.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence

from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import position


def gathered(network: Network, families: Iterable[Family]) -> Network:
    """Return the network with its nodes in this order: a copy, or the network itself where the order stays.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    families
        The layers that share a weight, in the order in which families take precedence.
    """
    shared = [family for family in families if len(family.members) > 1]
    if not shared:
        return network
    maker = {tensor.name: index for index, node in enumerate(network.nodes) for tensor in node.outputs if tensor.name}
    needs = [{maker[name] for name in network.reads(node) if name in maker} for node in network.nodes]
    for family in shared:
        members = {position(network, site.output) for site in family.members}
        inputs = set().union(*(needs[index] for index in members))
        waiting = [own | inputs if index in members else own for index, own in enumerate(needs)]
        if _sorted(waiting) is not None:
            needs = waiting
    order = _sorted(needs)
    assert order is not None  # no family may make a cycle
    if order == sorted(order):
        return network
    copy = network.copy()
    copy.reorder(order)
    return copy


def _sorted(needs: Sequence[set[int]]) -> list[int] | None:
    """Return the nodes so that each comes behind all that it needs, else as early as before; None in a cycle."""
    missing = [len(own) for own in needs]
    needed_by: Mapping[int, list[int]] = {index: [] for index in range(len(needs))}
    for index, own in enumerate(needs):
        for other in own:
            needed_by[other].append(index)
    ready = [index for index, count in enumerate(missing) if not count]
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for other in needed_by[index]:
            missing[other] -= 1
            if not missing[other]:
                heapq.heappush(ready, other)
    return order if len(order) == len(needs) else None
