"""Folding what a convolution's channels are multiplied by and shifted by into its weights.

A batch normalisation, as the operator or as exporters spell it (subtract, multiply, add), is affine in every channel,

    γ · (W∗x + b − μ) / √(σ² + ε) + β  =  (g·W)∗x + g·(b − μ) + β     with g = γ / √(σ² + ε),

and so is a bias that an Add of its own brings. Where the network keeps its channels last, the nodes stand behind a
Transpose, and some exporters put a Cast between any two nodes, to the type that the values already have.

A weight that several nodes read stays one weight: it takes gains g only if they are the same for all its readers, such
as those of a normalisation that they share as well. Where every level of a detector's head has a normalisation of its
own, this stays behind the convolution, and only what comes before the first gain is folded, into the bias.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.constants import ComputedConstants
from onnx_lowrank.graph.kinds import STANDARD, is_inference_norm, is_transposed, moved_axes
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse, make_constant, unique
from onnx_lowrank.graph.traverse import count_readers

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]
"""(gain, shift), [d] or [1] each: y ↦ gain · y + shift."""


@dataclass(frozen=True)
class _Step:
    """A node that can be folded, the tensor y that it reads, and the map from W∗x to its output."""

    node: gs.Node
    operand: gs.Tensor
    gain: NDArray[np.float64]
    shift: NDArray[np.float64]


@dataclass(frozen=True)
class _Tail:
    """The nodes behind a convolution that can be folded into it, in their order."""

    conv: gs.Node
    steps: tuple[_Step, ...]

    @property
    def weight(self) -> str:
        """The name of the convolution's weight."""
        return str(self.conv.inputs[1].name)

    @property
    def gain(self) -> NDArray[np.float64]:
        """The gain of all steps together, [d]."""
        gain = self.steps[-1].gain if self.steps else np.ones(1)
        return np.broadcast_to(gain, (_filters(self.conv),))

    def without_gain(self) -> "_Tail":
        """Return the steps before the first gain."""
        scaled = [bool((step.gain != 1).any()) for step in self.steps]
        return replace(self, steps=self.steps[: scaled.index(True)] if any(scaled) else self.steps)


@np.errstate(all="ignore")  # what is not finite is not folded, and some NaNs cannot be converted without a warning
def fold(network: Network, convs: Iterable[gs.Node], constants: ComputedConstants, taken: set[str]) -> None:
    """Fold what follows convolutions into their weights, as far as it is affine in every channel.

    Parameters
    ----------
    network
        The folded nodes are removed from it; the output of the last of them keeps its name.
    convs
        All nodes of its main graph that are a Conv or a ConvTranspose.
    constants
        The constants of the network.
    taken
        All names of the network; those of the new weights are added.
    """
    made: dict[str, gs.Constant] = {}
    tails = [tail for conv in convs if (tail := _tail(network, conv, constants))]
    for tail in _with_common_gains(network, tails):
        if tail.steps and _reweight(tail.conv, tail.steps[-1].gain, tail.steps[-1].shift, taken, made):
            for step in tail.steps:
                _bypass(network, step.node, step.operand)


def _with_common_gains(network: Network, tails: Iterable[_Tail]) -> Iterator[_Tail]:
    """Yield the tails, those of readers of one weight without gains unless these are the same for all its readers."""
    # One weight has its filters on the first axis for a Conv and on the second for a ConvTranspose.
    by_weight: dict[tuple[str, bool], list[_Tail]] = {}
    for tail in tails:
        by_weight.setdefault((tail.weight, is_transposed(tail.conv)), []).append(tail)
    readers = count_readers(network) if any(tail.steps for own in by_weight.values() for tail in own) else Counter()
    for (weight, _), own in by_weight.items():
        alike = len(own) == readers[weight] and all(np.array_equal(tail.gain, own[0].gain) for tail in own)
        yield from (tail if alike or readers[weight] == 1 else tail.without_gain() for tail in own)


def _tail(network: Network, conv: gs.Node, constants: ComputedConstants) -> _Tail | None:
    """Return the nodes that can be folded into a convolution; None where its weight and bias are no constants."""
    weight = conv.inputs[1]
    bias = conv.inputs[2] if len(conv.inputs) > 2 and conv.inputs[2].name else None
    if not isinstance(weight, gs.Constant) or is_sparse(weight) or dtype(weight) not in FLOATS:
        return None
    if len(weight.shape) < 3:
        return None
    filters = _filters(conv)
    offset = np.zeros(filters) if bias is None else constants.find(bias)
    if offset is None or offset.shape != (filters,):
        return None
    element, rank = dtype(weight), len(weight.shape)
    outputs = {id(tensor) for tensor in network.outputs}
    gain, shift = np.ones(1), offset.astype(np.float64)
    tensor, channels = conv.outputs[0], 1
    steps: list[_Step] = []
    while len(tensor.outputs) == 1 and id(tensor) not in outputs and tensor.outputs[0] in network:
        node = tensor.outputs[0]
        axes = moved_axes(node, element, rank)
        if axes is not None:
            channels = axes.index(channels)
        else:
            affine = _affine(node, tensor, channels, (rank, filters), network.opset, constants)
            if affine is None:
                break
            gain, shift = gain * affine[0], shift * affine[0] + affine[1]
            steps.append(_Step(node, tensor, gain, shift))
        tensor = node.outputs[0]
    return _Tail(conv, tuple(steps))


def _affine(
    node: gs.Node, y: gs.Tensor, channels: int, size: tuple[int, int], opset: int, constants: ComputedConstants
) -> Affine | None:
    """Return what a node does to y, of size (rank, filters), if it is affine in every channel, by finite numbers."""
    if node.domain not in STANDARD:
        return None
    affine: Affine | None = None
    if node.op == "BatchNormalization":
        if node.inputs[0] is y and channels == 1 and is_inference_norm(node, opset):
            affine = _norm(node, size[1], constants)
    # Before opset 7 the operands were aligned by attributes.
    elif node.op in ("Add", "Sub", "Mul", "Div") and len(node.inputs) == 2 and opset >= 7:
        y_first = node.inputs[0] is y
        other = node.inputs[1 if y_first else 0]
        values = None if other is y else _channel_values(constants.find(other), channels, size)
        affine = None if values is None else _arithmetic(node.op, values, y_first)
    return affine if affine and all(np.isfinite(part).all() for part in affine) else None


def _arithmetic(op: str, values: NDArray[np.float64], y_first: bool) -> Affine | None:
    """Return y op values, or values op y where y does not come first; None where that is not affine in y."""
    one, zero = np.ones(1), np.zeros(1)
    match op:
        case "Add":
            return one, values
        case "Sub":
            return (one, -values) if y_first else (-one, values)
        case "Mul":
            return values, zero
    return (1 / values, zero) if y_first else None


def _channel_values(values: NDArray[Any] | None, channels: int, size: tuple[int, int]) -> NDArray[np.float64] | None:
    """Return a constant as [d] or [1] if it differs along the channels alone and makes the other operand no larger."""
    rank, filters = size
    if values is None or values.ndim > rank or values.dtype not in FLOATS:
        return None
    shape = (1,) * (rank - values.ndim) + values.shape
    if any(extent != 1 for axis, extent in enumerate(shape) if axis != channels) or shape[channels] not in (1, filters):
        return None
    return values.astype(np.float64).reshape(-1)


def _norm(norm: gs.Node, filters: int, constants: ComputedConstants) -> Affine | None:
    parameters = [constants.find(tensor) for tensor in norm.inputs[1:5]]
    if any(parameter is None or parameter.shape != (filters,) for parameter in parameters):
        return None
    gamma, beta, mean, variance = (np.asarray(parameter, np.float64) for parameter in parameters)
    gain = gamma / np.sqrt(variance + float(norm.attrs.get("epsilon", 1e-5)))
    return gain, beta - mean * gain


def _reweight(
    conv: gs.Node,
    gain: NDArray[np.float64],
    shift: NDArray[np.float64],
    taken: set[str],
    made: dict[str, gs.Constant],
) -> bool:
    """Give the convolution the new weights; False, and nothing is changed, where its type cannot hold them.

    ``made`` holds the new weights by the names of the old ones, which other convolutions may read as well.
    """
    weight = conv.inputs[1]
    filters, element = _filters(conv), dtype(weight)
    kernel = array(weight).astype(np.float64) * _along_filters(conv, gain)
    if not (np.isfinite(kernel).all() and np.isfinite(shift).all()):
        return False
    bias = conv.inputs[2].name if len(conv.inputs) > 2 and conv.inputs[2].name else f"{weight.name}/bias"
    new_weight: gs.Constant | None = weight
    if not (gain == 1).all():
        new_weight = made.get(weight.name) or make_constant(unique(f"{weight.name}/folded", taken), kernel, element)
    new_bias = make_constant(unique(f"{bias}/folded", taken), np.broadcast_to(shift, (filters,)), element)
    if new_weight is None or new_bias is None:
        return False
    if new_weight is not weight:
        made[weight.name] = new_weight
    conv.inputs = [conv.inputs[0], new_weight, new_bias]
    return True


def _filters(conv: gs.Node) -> int:
    """Return d, the number of filters; the weight is [d, ·, …], that of a ConvTranspose [c, d of a group, …]."""
    first, second = conv.inputs[1].shape[:2]
    return int(second * conv.attrs.get("group", 1) if is_transposed(conv) else first)


def _along_filters(conv: gs.Node, gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return gains, [d] or [1], in a shape in which they multiply the weight filter by filter."""
    shape = conv.inputs[1].shape
    behind = [1] * (len(shape) - 2)
    if not is_transposed(conv) or len(gain) == 1:
        return gain.reshape(-1, 1, *behind)
    group = conv.attrs.get("group", 1)
    return np.repeat(gain.reshape(group, -1), shape[0] // group, axis=0).reshape(*shape[:2], *behind)


def _bypass(network: Network, node: gs.Node, operand: gs.Tensor) -> None:
    """Take a node out of the network: the node that makes its operand makes its output instead."""
    constants = [tensor for tensor in node.inputs if tensor is not operand]
    maker, output = operand.inputs[0], node.outputs[0]
    network.remove(node)
    maker.outputs = [output]
    for tensor in constants:
        network.remove_unread(tensor)
