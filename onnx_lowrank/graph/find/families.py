"""The sites that share a weight: one set of factors serves them all.

The head of a detector reads every level of a pyramid with the same convolutions, a Siamese network both of its inputs,
and an unrolled loop uses one layer again and again. The file stores such a weight once. It is to store its factors once
as well, so the form, the ranks and the factors of these sites are chosen and solved together.

Whether two nodes read one tensor or two of equal values is an exporter's choice, so equal values decide. What must also
agree is the type, the number of groups and the number of spatial axes. Everything else may differ: the sizes of the
maps, strides, dilations and padding, the bias (every node has its own anyway), and what follows.
"""

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.network import Network


@dataclass(frozen=True)
class Family:
    """The sites of one weight, in topological order; most families have a single member.

    Attributes
    ----------
    members
        At least one site.
    depth
        The most members on one way through the network. Members side by side have an output, or a part of one, each to
        itself; the error of members behind one another adds up.
    """

    members: tuple[ConvSite, ...]
    depth: int = 1

    @property
    def name(self) -> str:
        """The name of the first member."""
        return self.members[0].name

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all members."""
        return tuple(site.name for site in self.members)


def families(network: Network, sites: Iterable[ConvSite]) -> tuple[Family, ...]:
    """Divide sites into families, in the order of their first members.

    Parameters
    ----------
    network
        The network that they were found in.
    sites
        In topological order.
    """
    sites = tuple(sites)
    alike: dict[Hashable, list[ConvSite]] = defaultdict(list)
    for site in sites:
        alike[site.kernel.shape, site.dtype, site.group, site.transposition is None].append(site)
    # A weight is read in full only where another one has its shape.
    members: dict[str, tuple[ConvSite, ...]] = {}
    for candidates in alike.values():
        equal: dict[bytes, list[ConvSite]] = defaultdict(list)
        for site in candidates:
            equal[_digest(site) if len(candidates) > 1 else b""].append(site)
        members |= {own[0].name: tuple(own) for own in equal.values()}
    own = (members[site.name] for site in sites if site.name in members)
    return tuple(Family(group, _depth(network, group) if len(group) > 1 else 1) for group in own)


def _depth(network: Network, members: Iterable[ConvSite]) -> int:
    """Return the most members on one way through the network."""
    outputs = {site.output for site in members}
    passed: dict[str, int] = {}
    for node in network.nodes:
        most = max((passed.get(name, 0) for name in network.reads(node)), default=0)
        passed |= {tensor.name: most + (tensor.name in outputs) for tensor in node.outputs if tensor.name}
    return max(passed.values())


def _digest(site: ConvSite) -> bytes:
    # Adding 0 turns -0 into 0.
    return hashlib.sha256((site.kernel + 0.0).tobytes()).digest()
