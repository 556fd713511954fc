"""The layers that can compute with 8-bit numbers, and the reasons for leaving the others alone.

Unlike a layer that is factorised, one that is quantised may be the first of the network or depthwise: its shape does
not matter, only that its weights are stored and that runtimes have integer kernels for it.
"""

from dataclasses import dataclass

import numpy as np

from onnx_lowrank.graph.find.dense import find_dense
from onnx_lowrank.graph.find.followers import Followers
from onnx_lowrank.graph.find.patterns import Pattern
from onnx_lowrank.graph.find.refusals import NOT_PLAIN, obstacle
from onnx_lowrank.graph.find.site import ConvSite, conv_site, dense_site
from onnx_lowrank.graph.find.sites import Skip, layer_names
from onnx_lowrank.graph.kinds import is_conv, is_convolution, is_dense
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import dtype
from onnx_lowrank.graph.traverse import varying_tensors

NOT_SINGLE = "weights of type {}: integers stand beside single precision"
NO_KERNEL = "{} has no integer kernel in ONNX Runtime"


@dataclass(frozen=True)
class Quantisable:
    """The layers of a network.

    Attributes
    ----------
    sites
        Those that can be quantised, in topological order.
    skipped
        The other convolutions and fully connected layers, with the reasons.
    """

    sites: tuple[ConvSite, ...]
    skipped: tuple[Skip, ...]


def quantisable(network: Network, exclude: str | None = None) -> Quantisable:
    """Sort the layers of a network into those that can be quantised and those that stay in floating point.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    exclude
        A regular expression; layers in whose name it is found stay.
    """
    layers = [node for node in network.nodes if is_convolution(node) or is_dense(node)]
    names = layer_names(layers, set())
    excluded = Pattern("--exclude", exclude)
    dense = {layer.output: layer for layer in find_dense(network, names)}
    varying, followers = varying_tensors(network), Followers(network)
    sites, skipped = [], []
    for node in layers:
        output = node.outputs[0].name
        name = names[output]
        reason = obstacle(node, depthwise=True)
        if reason is None and is_convolution(node) and not is_conv(node):
            reason = NO_KERNEL.format(node.op)
        if reason is None and dtype(node.inputs[1]) != np.float32:
            reason = NOT_SINGLE.format(dtype(node.inputs[1]))
        if reason is None and node.inputs[0].name not in varying:
            reason = "its input is constant"
        if reason is None and excluded.matches(name):
            reason = "excluded by --exclude"
        if reason is None and is_dense(node) and output not in dense:
            reason = NOT_PLAIN
        if reason is not None:
            skipped.append(Skip(name, reason, output))
        elif is_conv(node):
            sites.append(conv_site(node, name, followers))
        else:
            sites.append(dense_site(dense[output], followers))
    return Quantisable(tuple(sites), tuple(skipped))
