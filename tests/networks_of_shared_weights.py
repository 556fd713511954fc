"""Small networks whose convolutions share weights."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from models_for_tests import build, conv, norm, relu, weights
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]


def low_rank(seed: int, *shape: int) -> Array:
    """Return a kernel that is nearly of low rank, so that a factorisation makes sense."""
    d, size = shape[0], int(np.prod(shape[1:]))
    rank = max(1, min(d, size) // 3)
    exact = weights(seed, d, rank) @ weights(seed + 100, rank, size) * np.float32(1.4 * np.sqrt(rank / size))
    return (exact.reshape(shape) + 0.1 * weights(seed + 200, *shape)).astype(np.float32)


def head(
    levels: int = 3, convs: int = 2, d: int = 12, *, by_level: bool = False, biases: bool = True
) -> onnx.ModelProto:
    """Build a head that reads every level of a pyramid with the same convolutions.

    A stem is followed by poolings, each level by a lateral convolution of its own, and this by the convolutions
    "level0.head.0" and so on, with ReLUs. The outputs are y0, y1, ….

    Parameters
    ----------
    levels, convs, d
        The numbers of levels, of convolutions in the head, and of channels.
    by_level
        Whether the file lists each level with its head, and not all levels before all heads.
    biases
        Whether every level has biases of its own; else there are none.
    """
    stored = {"w": weights(1, d, 3, 3, 3)} | {f"head.{j}": low_rank(10 + j, d, d, 3, 3) for j in range(convs)}
    pyramid: list[Any] = [conv("stem", "x", "w", "c"), relu("c", "p0")]
    heads = []
    for level in range(levels):
        first, own = len(pyramid), []
        if level:
            kwargs = {"kernel_shape": [2, 2], "strides": [2, 2]}
            pyramid.append(helper.make_node("MaxPool", [f"p{level - 1}"], [f"p{level}"], f"pool{level}", **kwargs))
        stored[f"lateral.{level}"] = low_rank(30 + level, d, d, 1, 1)
        pyramid.append(conv(f"lateral.{level}", f"p{level}", f"lateral.{level}", f"l{level}.0", pads=[0] * 4))
        for j in range(convs):
            y, bias = f"l{level}.{j + 1}", None
            if biases:
                bias = f"b{level}.{j}"
                stored[bias] = 0.3 * weights(100 + 10 * level + j, d)
            own.append(conv(f"level{level}.head.{j}", f"l{level}.{j}", f"head.{j}", f"{y}.response", bias))
            own.append(relu(f"{y}.response", y if j < convs - 1 else f"y{level}"))
        heads += [*pyramid[first:], *own] if by_level else own
        if by_level:
            del pyramid[first:]
    return build([*pyramid, *heads], stored, [f"y{level}" for level in range(levels)])


def loop(times: int = 3, d: int = 8, *, two: bool = False) -> onnx.ModelProto:
    """Build an unrolled loop: a stem, and then the convolution "step0", "step1" and so on, one behind another.

    With ``two`` another shared convolution, "turn0" and so on, stands between any two of them.
    """
    stored = {"w": weights(1, d, 3, 3, 3), "ws": low_rank(2, d, d, 3, 3), "wt": low_rank(3, d, d, 3, 3)}
    nodes, x = [conv("stem", "x", "w", "c"), relu("c", "r")], "r"
    for number in range(times):
        for name, weight in (("step", "ws"), ("turn", "wt"))[: 2 if two else 1]:
            nodes += [
                conv(f"{name}{number}", x, weight, f"{name}.c{number}"),
                relu(f"{name}.c{number}", f"{name}{number}"),
            ]
            x = f"{name}{number}"
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    return build(nodes, stored if two else {name: value for name, value in stored.items() if name != "wt"})


def normalised_levels(same: bool) -> onnx.ModelProto:
    """Build two levels that share "w1"; a normalisation behind it is the same for both levels, or each has its own."""
    stored = {"w": weights(1, 8, 3, 3, 3), "w1": low_rank(2, 8, 8, 3, 3)}
    nodes = [conv("stem", "x", "w", "c"), relu("c", "r")]
    nodes.append(helper.make_node("MaxPool", ["r"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]))
    for level, x in enumerate(("r", "p")):
        node, constants = norm(f"c{level}", f"n{level}", "bn" if same else f"bn{level}", 8, 5 if same else 5 + level)
        stored |= constants
        nodes += [conv(f"level{level}", x, "w1", f"c{level}"), node, relu(f"n{level}", f"y{level}")]
    return build(nodes, stored, ("y0", "y1"))


def stored_bytes(model: onnx.ModelProto) -> int:
    """Return the bytes of all initializers."""
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def weights_read(model: onnx.ModelProto, prefix: str) -> list[tuple[str, ...]]:
    """Return the names of the weights that the chain in the place of each convolution reads, link by link.

    ``prefix`` begins the names of the convolutions, whose chains come in the order of the nodes.
    """
    chains: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.name.startswith(prefix):
            chains.setdefault(node.name.partition("/")[0], []).append(node.input[1])
    return [tuple(chain) for chain in chains.values()]


def in_parallel(geometry: Sequence[tuple[int, int, int]], rest: str = "relu") -> onnx.ModelProto:
    """Build convolutions "a0", "a1", … of one weight that read one stem.

    Parameters
    ----------
    geometry
        The stride, dilation and padding of each.
    rest
        What follows all but the first, behind which there is a ReLU: "relu", "clip" or "shortcut".
    """
    stored = {"w": weights(1, 6, 3, 3, 3), "wa": low_rank(2, 9, 6, 3, 3)}
    nodes = [conv("stem", "x", "w", "c"), relu("c", "r")]
    for i, (stride, dilation, pad) in enumerate(geometry):
        stored[f"b{i}"] = 0.3 * weights(10 + i, 9)
        own: dict[str, Any] = {"strides": [stride, 1], "dilations": [dilation, 1], "pads": [pad] * 4}
        nodes.append(conv(f"a{i}", "r", "wa", f"c{i}", f"b{i}" if i else None, **own))
        if i == 0 or rest == "relu":
            nodes.append(relu(f"c{i}", f"y{i}"))
        elif rest == "clip":
            stored[f"high{i}"] = np.array(0.1 * i, np.float32)
            nodes.append(helper.make_node("Clip", [f"c{i}", "", f"high{i}"], [f"y{i}"]))
        else:  # a shortcut joins here, and not at the first
            stored[f"ws{i}"] = weights(20 + i, 9, 6, 3, 3)
            nodes.append(conv(f"projection{i}", "r", f"ws{i}", f"s{i}", **own))
            nodes += [helper.make_node("Add", [f"c{i}", f"s{i}"], [f"t{i}"]), relu(f"t{i}", f"y{i}")]
    return build(nodes, stored, [f"y{i}" for i in range(len(geometry))])
