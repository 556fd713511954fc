"""The reasons for leaving a convolution, or a fully connected layer, alone."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnx_lowrank.factorise.forms.spatial import two_sizes
from onnx_lowrank.graph.kinds import STANDARD, is_conv, is_convolution, is_dense, is_plain_convolution, is_transposed
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse

FIRST = (
    "the first convolution: it sees raw pixels, costs little, and its error would run through the whole network "
    "(name it in --include to factorise it)"
)
LARGE = 49
"""The number of pixels, as of 7×7, from which a depthwise kernel is cut. Smaller ones save little, and two convolutions
that do little for every number that they move are slower than one."""

NOT_PLAIN = "alpha, beta, transA, or a bias that is no vector"


def hidden_layers(network: Network, is_layer: Callable[[gs.Node], bool]) -> Iterator[tuple[str, str]]:
    """Yield name and reason of the layers in the bodies of If, Loop and Scan and in model-local functions."""
    yield from _in_bodies(network.nodes, is_layer)
    for function in network.functions:
        for node in function.nodes:
            if is_layer(node):
                yield _label(node), f"inside the function {function.name!r}"
        yield from _in_bodies(function.nodes, is_layer)


def first_convolutions(network: Network) -> set[str]:
    """Return the outputs of the convolutions that see inputs of the model alone, and nothing a convolution has made.

    A layer whose features are masked by an input, joined with a cached state or added to features from outside sees
    more than inputs, so it is not among them.
    """
    raw = {tensor.name for tensor in network.inputs}
    made: set[str] = set()  # tensors behind a convolution
    first: set[str] = set()
    for node in network.nodes:
        if node.op in ("Shape", "Size"):  # a size that is computed from a tensor carries none of its values
            continue
        reads = set(network.reads(node))
        outputs = {tensor.name for tensor in node.outputs if tensor.name}
        if not made.isdisjoint(reads):
            made |= outputs
        elif raw.isdisjoint(reads):
            continue
        elif is_convolution(node):
            first |= outputs
            made |= outputs
        elif any(is_convolution(inner) for body in node.subgraphs(recursive=True) for inner in body.nodes):
            made |= outputs
        else:
            raw |= outputs
    return first


def obstacle(node: gs.Node, *, depthwise: bool = False) -> str | None:
    """Return the reason, in a few words, why a layer of the main graph cannot be factorised; None if it can.

    With ``depthwise``, depthwise layers are not refused.
    """
    if node.op in ("QLinearConv", "ConvInteger") or any(
        producer.op == "DequantizeLinear" for tensor in node.inputs[1:2] for producer in tensor.inputs
    ):
        return "weights are quantised: compress before quantising"
    if not is_plain_convolution(node) and not is_dense(node):
        domain = "" if node.domain in STANDARD else f" of the domain {node.domain!r}"
        return f"{node.op}{domain} is not supported"
    weight = node.inputs[1]
    if not isinstance(weight, gs.Constant):
        return "weights are not constant"
    if is_sparse(weight):
        return "weights are stored sparse"
    if is_dense(node) and len(weight.shape) != 2:
        return f"weights with {len(weight.shape)} axes"
    if is_plain_convolution(node) and len(weight.shape) < 3:
        return "its kernel has no size"
    if is_plain_convolution(node) and not _has_geometry(node, len(weight.shape) - 2):
        return "its strides, dilations or pads do not fit its kernel"
    group = node.attrs.get("group", 1)
    if not depthwise and _is_depthwise(node, group):
        return f"depthwise convolution (group={group})"
    if dtype(weight) not in FLOATS:
        return f"weights of type {dtype(weight)}"
    if len(node.inputs) > 2 and node.inputs[2].name and not isinstance(node.inputs[2], gs.Constant):
        return "bias is not constant"
    with np.errstate(invalid="ignore"):  # some NaNs cannot be converted without a warning
        values = [array(tensor).astype(np.float64) for tensor in node.inputs[1:] if tensor.name]
    if not all(np.isfinite(value).all() for value in values):
        return "weights that are infinite or not a number"
    return None


def _is_depthwise(node: gs.Node, group: int) -> bool:
    """Whether every group of a convolution has one channel, and no form can cut the kernel in space."""
    shape = node.inputs[1].shape
    if is_transposed(node):
        return bool(group > 1 and shape[0] == group)
    return bool(is_conv(node) and group > 1 and shape[1] == 1 and not can_be_cut(shape[2:]))


def can_be_cut(sizes: Sequence[int]) -> bool:
    """Return whether a cut in space is worth it for a depthwise kernel, which has to extend far, in two directions."""
    return math.prod(sizes) >= LARGE and min(two_sizes(sizes)) > 1


def _in_bodies(nodes: Iterable[gs.Node], is_layer: Callable[[gs.Node], bool]) -> Iterator[tuple[str, str]]:
    for owner in nodes:
        for body in owner.subgraphs(recursive=True):
            for node in body.nodes:
                if is_layer(node):
                    yield _label(node), f"inside the body of {owner.op} {_label(owner)!r}"


def _label(node: gs.Node) -> str:
    return str(node.name or node.outputs[0].name)


def _has_geometry(node: gs.Node, dimensions: int) -> bool:
    """Whether strides, dilations and pads are there for every dimension of the kernel, or left out."""

    def fit(key: str, count: int, least: int) -> bool:
        values = node.attrs.get(key, [least] * count)
        return isinstance(values, (list, tuple)) and len(values) == count and all(value >= least for value in values)

    plain = fit("strides", dimensions, 1) and fit("dilations", dimensions, 1) and fit("pads", 2 * dimensions, 0)
    if not is_transposed(node):
        return plain
    group = node.attrs.get("group", 1)
    if group < 1 or node.inputs[1].shape[0] % group:
        return False
    stated = len(node.attrs.get("output_shape", ())) in (0, dimensions, dimensions + 2)
    return plain and stated and fit("output_padding", dimensions, 0)
