"""A layer that can be factorised, as names, arrays and attributes.

A fully connected layer is a convolution without any spatial axis: it makes one response from one row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations.relu import Activation
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.followers import Followers, Join
from onnx_lowrank.graph.find.transposition import Transposition, swap_channels
from onnx_lowrank.graph.kinds import is_transposed
from onnx_lowrank.graph.tensors import array, dtype


@dataclass(frozen=True)
class ConvSite:
    """A convolution that can be factorised: names, arrays and attributes, never node objects.

    Attributes
    ----------
    name
        The node's name; the output tensor's name if the node has none, or shares it with another layer. No two layers
        of a model have the same.
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
        The function that the response, or the sum with a shortcut, goes through next, where nobody else reads it; else
        None.
    join
        The shortcut that is added to the response, where nothing else reads the response; else None.
    group
        The number of groups that channels and filters are divided into; each group of filters sees its own channels
        alone.
    sum_with_bias
        The name of the sum where an Add brings the bias, as behind a MatMul; else None.
    transposition
        What a transposed convolution has besides; None for any other.
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
    transposition: Transposition | None = None

    @property
    def target(self) -> str:
        """Name of the tensor that a solution is to reproduce: the sum where one is made, else the output."""
        return self.join.total if self.join else self.sum_with_bias or self.output

    @property
    def depthwise(self) -> bool:
        """Whether every group has one channel."""
        return self.group > 1 and self.kernel.shape[1] == 1

    @property
    def kernels(self) -> list[NDArray[np.float64]]:
        """The kernel of every group, [d of a group, channels of a group, *sizes]."""
        return np.split(self.kernel, self.group)

    def padding(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the padding for an input of this size along its spatial axes: in front along each, then behind."""
        if self.transposition:
            return self.transposition.padding(self, size)
        if self.pads is not None:
            return self.pads
        if self.auto_pad == "VALID":
            return (0,) * (2 * len(size))
        before, after = [], []
        for length, stride, extent in zip(size, self.strides, self.extents, strict=True):
            # SAME means ceil(length / stride) outputs; an odd pixel goes to the side that the attribute names.
            total = max((-(-length // stride) - 1) * stride + extent - length, 0)
            less, more = total // 2, total - total // 2
            before.append(less if self.auto_pad == "SAME_UPPER" else more)
            after.append(more if self.auto_pad == "SAME_UPPER" else less)
        return (*before, *after)

    def output_size(self, size: Sequence[int]) -> tuple[int, ...]:
        """Return the size of the output along the spatial axes for an input of this size."""
        if self.transposition:
            return self.transposition.output_size(self, size)
        pads, axes = self.padding(size), len(size)
        padded = [length + pads[axis] + pads[axes + axis] for axis, length in enumerate(size)]
        return tuple((n - e) // s + 1 for n, e, s in zip(padded, self.extents, self.strides, strict=True))

    @property
    def extents(self) -> tuple[int, ...]:
        """The lengths of the dilated kernel along every spatial axis."""
        return tuple((k - 1) * step + 1 for k, step in zip(self.kernel.shape[2:], self.dilations, strict=True))


def conv_site(node: gs.Node, name: str, followers: Followers) -> ConvSite:
    """Return a convolution of the main graph as a site of this name."""
    weight, output = node.inputs[1], node.outputs[0]
    kernel, group = array(weight).astype(np.float64), node.attrs.get("group", 1)
    if is_transposed(node):
        kernel = swap_channels(kernel, group)
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
        group=group,
        transposition=_transposition(node, axes) if is_transposed(node) else None,
    )


def _transposition(node: gs.Node, axes: int) -> Transposition:
    """Return what a ConvTranspose has besides the attributes of a Conv; old files state all axes of the output."""
    shape = node.attrs.get("output_shape") or ()
    output_padding = tuple(node.attrs.get("output_padding") or (0,) * axes)
    return Transposition(output_padding, tuple(shape[-axes:]) if shape else None)


def dense_site(layer: DenseLayer, followers: Followers | None = None) -> ConvSite:
    """Return a fully connected layer as a convolution without spatial axes.

    Parameters
    ----------
    layer
        The layer.
    followers
        What follows the tensors of the network; None where it does not matter.
    """
    activation = join = None
    if followers is not None:
        activation, join = followers.of(layer.target, layer.shape[0], 2, layer.dtype)
    return ConvSite(
        name=layer.name,
        input=layer.input,
        output=layer.output,
        kernel=layer.weight.astype(np.float64),
        bias=layer.bias,
        dtype=layer.dtype,
        strides=(),
        dilations=(),
        pads=(),
        auto_pad="NOTSET",
        activation=None if join else activation,
        join=None,
        sum_with_bias=layer.target if layer.target != layer.output else None,
    )
