"""Which convolutions can be factorised, and why the others are left alone.

A fully connected layer is a convolution without any spatial axis: it makes one response from one row.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.graph.find.dense import linear_site
from onnx_lowrank.graph.find.followers import Followers, Join
from onnx_lowrank.graph.find.refusals import FIRST, first_convolutions, hidden_layers, obstacle
from onnx_lowrank.graph.kinds import is_convolution, is_dense
from onnx_lowrank.graph.tensors import array, dtype, unique
from onnx_lowrank.graph.traverse import count_readers, varying_tensors


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
        [filters d, channels of a group, *sizes], float64; a size for each of the spatial axes, of which there may be
        one (sounds), two (images) or three (videos), or none for a fully connected layer.
    bias
        [d], float64; zeros where the model has none.
    dtype
        The weights' type in the model, to which the factors are written back.
    strides, dilations
        Along every spatial axis.
    pads
        In front along every spatial axis, then behind, as stored; None where ``auto_pad`` decides.
    auto_pad
        "NOTSET", "VALID", "SAME_UPPER" or "SAME_LOWER".
    activation
        What the response, or the sum that it joins, goes through next, where nobody else sees it; else None.
    join
        The shortcut that is added to the response, where nothing else reads it; else None.
    group
        Into how many groups channels and filters are divided; each group of filters sees its own channels alone.
    sum_with_bias
        Where an Add brings the bias, as behind a MatMul, the name of what it makes; else None.
    """

    name: str
    input: str
    output: str
    kernel: NDArray[np.float64]
    bias: NDArray[np.float64]
    dtype: np.dtype[Any]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    auto_pad: str
    activation: Activation | None
    join: Join | None
    group: int = 1
    sum_with_bias: str | None = None

    @property
    def target(self) -> str:
        """Name of the tensor that a solution is to reproduce: the sum where one is made, else the output."""
        return self.join.total if self.join else self.sum_with_bias or self.output

    @property
    def kernels(self) -> list[NDArray[np.float64]]:
        """The kernel of every group, [d of a group, channels of a group, *sizes]."""
        return np.split(self.kernel, self.group)

    def padding(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the padding for an input of this size along its spatial axes: in front along each, then behind."""
        if self.pads is not None:
            return self.pads
        if self.auto_pad == "VALID":
            return (0,) * (2 * len(size))
        before, after = [], []
        for length, stride, extent in zip(size, self.strides, self._extents, strict=True):
            # SAME means ceil(length / stride) outputs; an odd pixel goes to the side that the name says.
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
            less, more = total // 2, total - total // 2
            before.append(less if self.auto_pad == "SAME_UPPER" else more)
            after.append(more if self.auto_pad == "SAME_UPPER" else less)
        return (*before, *after)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the output along the spatial axes for an input of this size."""
        pads, axes = self.padding(size), len(size)
        padded = [length + pads[axis] + pads[axes + axis] for axis, length in enumerate(size)]
        return tuple((n - e) // s + 1 for n, e, s in zip(padded, self._extents, self.strides, strict=True))

    @property
    def _extents(self) -> list[int]:
        """How far the dilated kernel reaches along every spatial axis."""
        return [(k - 1) * step + 1 for k, step in zip(self.kernel.shape[2:], self.dilations, strict=True)]


@dataclass(frozen=True)
class Skip:
    """A convolution that is left alone, and the reason in a few words."""

    name: str
    reason: str


def find_sites(
    graph: gs.Graph, include: str | None = None, exclude: str | None = None, *, gemm: bool = False
) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """Sort every convolution of the model into those that can be factorised and those that stay.

    Parameters
    ----------
    graph
        Normalised; it is not changed.
    include, exclude
        Regular expressions, searched in the node's name. With `include`, only what it names is factorised; what
        `exclude` names never is.
    gemm
        Whether fully connected layers are wanted, too.

    Returns
    -------
    sites
        In topological order.
    skips
        All others: those of the main graph in topological order, then those in bodies and functions.

    Raises
    ------
    UsageError
        If one of the expressions is not one.
    """
    wanted, unwanted = _pattern("--include", include), _pattern("--exclude", exclude)

    def is_layer(node: gs.Node) -> bool:
        return is_convolution(node) or (gemm and is_dense(node))

    nodes = [node for node in graph.nodes if is_layer(node)]
    names, taken = _names(nodes)
    first, varying, followers = first_convolutions(graph), varying_tensors(graph), Followers(graph)
    readers = count_readers(graph)
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
        if reason is not None:
            skips.append(Skip(name, reason))
        elif is_convolution(node):
            sites.append(_site(node, name, followers))
        elif dense := _dense_site(node, name, followers, readers):
            sites.append(dense)
        else:
            skips.append(Skip(name, "alpha, beta, transA, or a bias that is no vector"))
    skips += [Skip(unique(name, taken), reason) for name, reason in hidden_layers(graph, is_layer)]
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
    axes = kernel.ndim - 2
    auto_pad = node.attrs.get("auto_pad", "NOTSET") or "NOTSET"
    activation, join = followers.of(output.name, len(kernel), kernel.ndim, dtype(weight))
    return ConvSite(
        name=name,
        input=node.inputs[0].name,
        output=output.name,
        kernel=kernel,
        bias=bias,
        dtype=dtype(weight),
        strides=tuple(node.attrs.get("strides", (1,) * axes)),
        dilations=tuple(node.attrs.get("dilations", (1,) * axes)),
        pads=tuple(node.attrs.get("pads", (0,) * (2 * axes))) if auto_pad == "NOTSET" else None,
        auto_pad=auto_pad,
        activation=activation,
        join=join,
        group=node.attrs.get("group", 1),
    )


def _dense_site(node: gs.Node, name: str, followers: Followers, readers: Counter[str]) -> ConvSite | None:
    linear = linear_site(node, readers)
    if linear is None:
        return None
    activation, join = followers.of(linear.target, len(linear.weight), 2, dtype(node.inputs[1]))
    return ConvSite(
        name=name,
        input=linear.input,
        output=linear.output,
        kernel=linear.weight.astype(np.float64),
        bias=linear.bias,
        dtype=dtype(node.inputs[1]),
        strides=(),
        dilations=(),
        pads=(),
        auto_pad="NOTSET",
        activation=None if join else activation,
        join=None,
        sum_with_bias=linear.target if linear.target != linear.output else None,
    )
