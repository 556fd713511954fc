"""The layers that can be factorised, and the reasons for leaving the others alone.

A fully connected layer is a convolution without any spatial axis: it makes one response from one row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_lowrank.graph.find.dense import DenseLayer, find_dense
from onnx_lowrank.graph.find.followers import Followers
from onnx_lowrank.graph.find.patterns import Pattern
from onnx_lowrank.graph.find.refusals import FIRST, NOT_PLAIN, first_convolutions, hidden_layers, obstacle
from onnx_lowrank.graph.find.site import ConvSite, conv_site, dense_site
from onnx_lowrank.graph.kinds import is_convolution, is_dense
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import unique
from onnx_lowrank.graph.traverse import varying_tensors


@dataclass(frozen=True)
class Skip:
    """A layer that is left alone, and the reason in a few words.

    Attributes
    ----------
    name
        As for ``ConvSite``.
    reason
        The part in front of a colon says what is in the way, the part behind it what that means.
    output
        The tensor that the layer makes; None inside a body or a function, where its costs are not counted.
    """

    name: str
    reason: str
    output: str | None = None


@dataclass(frozen=True)
class Found:
    """The layers of a network.

    Attributes
    ----------
    sites
        Those that can be factorised, in topological order.
    skipped
        The other convolutions, and the other fully connected layers where these were asked for: those of the main
        graph in topological order, then those in bodies and functions.
    dense
        The fully connected layers of the main graph that only multiply and add, asked for or not, in topological
        order. One that is also a site has the site's name.
    unmatched
        A line for every pattern that matches no layer, with the names that are nearest to it.
    first
        Those among ``skipped`` that could be factorised but see inputs of the model alone. They are worth it where
        they turn out to cost much.
    """

    sites: tuple[ConvSite, ...]
    skipped: tuple[Skip, ...]
    dense: tuple[DenseLayer, ...]
    unmatched: tuple[str, ...]
    first: tuple[ConvSite, ...] = ()


def find_sites(
    network: Network, include: str | None = None, exclude: str | None = None, *, gemm: bool = False
) -> Found:
    """Sort the layers of a network into those that can be factorised and those that stay.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    include, exclude
        Regular expressions, searched in the layers' names. With ``include``, only the layers that it matches are
        factorised; those that ``exclude`` matches never are.
    gemm
        Whether fully connected layers are to be factorised as well.

    Raises
    ------
    UsageError
        If one of the expressions is not one.
    """
    included, excluded = Pattern("--include", include), Pattern("--exclude", exclude)

    def is_layer(node: gs.Node) -> bool:
        return is_convolution(node) or (gemm and is_dense(node))

    layers = [node for node in network.nodes if is_layer(node)]
    taken: set[str] = set()
    names = layer_names(layers, taken)
    hidden = [Skip(unique(name, taken), reason) for name, reason in hidden_layers(network, is_layer)]
    all_names = [*names.values(), *(skip.name for skip in hidden)]
    unmatched = [line for pattern in (included, excluded) if (line := pattern.complaint(all_names))]
    names |= layer_names([node for node in network.nodes if is_dense(node) and not is_layer(node)], taken)
    dense = {layer.output: layer for layer in find_dense(network, names)}
    first, varying, followers = first_convolutions(network), varying_tensors(network), Followers(network)
    sites, skipped, aside = [], [], []
    for node in layers:
        output = node.outputs[0].name
        name = names[output]
        reason = obstacle(node)
        if reason is None and node.inputs[0].name not in varying:
            reason = "its input is constant"
        if reason is None and excluded.matches(name):
            reason = "excluded by --exclude"
        if reason is None and included.given and not included.matches(name):
            reason = "not named by --include"
        if reason is None and is_dense(node) and output not in dense:
            reason = NOT_PLAIN
        if reason is not None:
            skipped.append(Skip(name, reason, output))
        elif is_convolution(node) and not included.given and output in first:
            skipped.append(Skip(name, FIRST, output))
            aside.append(conv_site(node, name, followers))
        elif is_dense(node):
            sites.append(dense_site(dense[output], followers))
        else:
            sites.append(conv_site(node, name, followers))
    return Found(tuple(sites), (*skipped, *hidden), tuple(dense.values()), tuple(unmatched), tuple(aside))


def layer_names(nodes: Sequence[gs.Node], taken: set[str]) -> dict[str, str]:
    """Return a name for every node by the name of its output, no two the same and none in ``taken``, and add them."""
    count = Counter(node.name for node in nodes)
    own = {name for name, times in count.items() if name and times == 1} - taken
    taken |= own
    # An output's name may be another node's name.
    outputs = {node.outputs[0].name: node.name for node in nodes}
    return {output: name if name in own else unique(output, taken) for output, name in outputs.items()}
