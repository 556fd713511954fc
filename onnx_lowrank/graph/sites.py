"""Which convolutions can be factorised, and why the others are left alone."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.activations import Activation
from onnx_lowrank.graph.followers import Followers, Join
from onnx_lowrank.graph.refusals import FIRST, first_convolutions, hidden_convolutions, is_convolution, obstacle
from onnx_lowrank.graph.segments import varying_tensors
from onnx_lowrank.graph.tensors import array, dtype, unique


@dataclass(frozen=True)
class ConvSite:
    """A convolution that can be factorised: names, arrays and attributes, never node objects.

    Attributes
    ----------
    name
        The node's name; the output tensor's name if the node has none, or shares it with another convolution. No two
        convolutions of a model have the same.
    input, output
        Names of the tensors that the convolution reads and makes (before the non-linearity).
    kernel
        [filters d, channels c, height, width], float64.
    bias
        [d], float64; zeros where the model has none.
    dtype
        The weights' type in the model, to which the factors are written back.
    strides, dilations
        (vertical, horizontal).
    pads
        (top, left, bottom, right), as stored; None where ``auto_pad`` decides.
    auto_pad
        "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
    activation
        What the response, or the sum that it joins, goes through next, where nobody else sees it; else None.
    join
        The shortcut that is added to the response, where nothing else reads it; else None.
    """

    name: str
    input: str
    output: str
    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]
    dtype: np.dtype[Any]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int] | None
    auto_pad: str
    activation: Activation | None
    join: Join | None

    @property
    def target(self) -> str:
        """Name of the tensor that a solution is to reproduce: the sum where a shortcut joins, else the output."""
        return self.join.total if self.join else self.output

    def padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the padding for an input of this size.

        Parameters
        ----------
        height, width
            Of the input, in pixels.

        Returns
        -------
        tuple of int
            (top, left, bottom, right), in pixels.
        """
        if self.pads is not None:
            return self.pads
        if self.auto_pad == "VALID":
            return (0, 0, 0, 0)
        before, after = [], []
        for axis, size in enumerate((height, width)):
            stride = self.strides[axis]
            extent = (self.kernel.shape[2 + axis] - 1) * self.dilations[axis] + 1
            # SAME means ceil(size / stride) outputs; an odd pixel goes to the side that the name says.
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            less, more = total // 2, total - total // 2
            before.append(less if self.auto_pad == "SAME_UPPER" else more)
            after.append(more if self.auto_pad == "SAME_UPPER" else less)
        return (before[0], before[1], after[0], after[1])

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of the output for an input of this size."""
        top, left, bottom, right = self.padding(height, width)
        padded = (height + top + bottom, width + left + right)
        extents = [(self.kernel.shape[2 + axis] - 1) * self.dilations[axis] + 1 for axis in (0, 1)]
        rows, columns = ((padded[axis] - extents[axis]) // self.strides[axis] + 1 for axis in (0, 1))
        return (rows, columns)


@dataclass(frozen=True)
class Skip:
    """A convolution that is left alone, and the reason in a few words."""

    name: str
    reason: str


def find_sites(
    graph: gs.Graph, include: str | None = None, exclude: str | None = None
) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """Sort every convolution of the model into those that can be factorised and those that stay.

    Parameters
    ----------
    graph
        Normalised; it is not changed.
    include, exclude
        Regular expressions, searched in the node's name. With `include`, only what it names is factorised; what
        `exclude` names never is.

    Returns
    -------
    sites
        In topological order.
    skips
        All other convolutions: those of the main graph in topological order, then those in bodies and functions.

    Raises
    ------
    UsageError
        If one of the expressions is not one.
    """
    wanted, unwanted = _pattern("--include", include), _pattern("--exclude", exclude)
    nodes = [node for node in graph.nodes if is_convolution(node)]
    names, taken = _names(nodes)
    first, varying, followers = first_convolutions(graph), varying_tensors(graph), Followers(graph)
    sites, skips = [], []
    for node, name in zip(nodes, names, strict=True):
        reason = obstacle(node)
        if reason is None and node.inputs[0].name not in varying:
            reason = "its input is constant"
        if reason is None and unwanted is not None and unwanted.search(name):
            reason = "excluded by --exclude"
        if reason is None and wanted is not None and not wanted.search(name):
            reason = "not named by --include"
        if reason is None and wanted is None and node.outputs[0].name in first:
            reason = FIRST
        if reason is None:
            sites.append(_site(node, name, followers))
        else:
            skips.append(Skip(name, reason))
    skips += [Skip(unique(name, taken), reason) for name, reason in hidden_convolutions(graph)]
    return tuple(sites), tuple(skips)


def _names(nodes: Sequence[gs.Node]) -> tuple[list[str], set[str]]:
    """Return a name for every node, no two the same, and all of them as a set."""
    count = Counter(node.name for node in nodes)
    taken = {name for name, times in count.items() if name and times == 1}
    # An output's name may be another node's name.
    names = [node.name if node.name in taken else unique(node.outputs[0].name, taken) for node in nodes]
    return names, taken


def _pattern(option: str, text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except re.error as error:
        raise UsageError(f"{option} {text!r} is not a regular expression: {error}") from error


def _site(node: gs.Node, name: str, followers: Followers) -> ConvSite:
    weight, output = node.inputs[1], node.outputs[0]
    kernel = array(weight).astype(np.float64)
    bias = np.zeros(kernel.shape[0])
    if len(node.inputs) > 2 and node.inputs[2].name:
        bias = array(node.inputs[2]).astype(np.float64)
    strides, dilations = (node.attrs.get(key, (1, 1)) for key in ("strides", "dilations"))
    auto_pad = node.attrs.get("auto_pad", "NOTSET") or "NOTSET"
    top, left, bottom, right = node.attrs.get("pads", (0, 0, 0, 0))
    activation, join = followers.of(output.name, len(kernel), kernel.ndim, dtype(weight))
    return ConvSite(
        name=name,
        input=node.inputs[0].name,
        output=output.name,
        kernel=kernel,
        bias=bias,
        dtype=dtype(weight),
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        pads=(top, left, bottom, right) if auto_pad == "NOTSET" else None,
        auto_pad=auto_pad,
        activation=activation,
        join=join,
    )
