"""The nodes behind a convolution's response y: an activation, a shortcut that is added to it, or both.

    y → r                  the activation r, alone
    y → + s                a shortcut s that joins, and nothing behind the sum that the solver takes into account
    y → + s → r            a residual block: r is the activation of the sum

Nodes that change no value may stand between any two of these: an Identity, a Cast to the type that the values already
have, a Transpose where the network keeps its channels last.

Nobody else may see what is approximated. An activation therefore counts only if every reader of its argument is part of
it, a join only if y is read by the addition alone; y, and what lies between y and r(y), must not be outputs of the
model.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.factorise.activations import curves
from onnx_lowrank.factorise.activations.piecewise import clip, hard_sigmoid, leaky_relu, prelu
from onnx_lowrank.factorise.activations.relu import RELU, Activation
from onnx_lowrank.graph.constants import find_constant
from onnx_lowrank.graph.find.elementwise import clip_bounds, evaluate
from onnx_lowrank.graph.kinds import STANDARD, is_convolution, moved_axes
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import varying_tensors

COMPOSED: tuple[Activation, ...] = (
    curves.SILU,
    curves.GELU,
    curves.GELU_TANH,
    curves.MISH,
    curves.HARD_SWISH,
    hard_sigmoid(1 / 6, 0.5),
    curves.SIGMOID,
    curves.TANH,
)
"""The activations that exporters put together from several nodes."""

SINGLE: np.dtype[Any] = np.dtype(np.float32)

LONGEST = 12
"""The number of nodes in the longest spelling, with a few to spare."""

POINTS = np.linspace(-8, 8, 257)
"""The arguments at which a spelling is compared with the activations."""

TOLERANCE = 5e-4
"""The largest difference between two values, relative to the argument beyond 1: constants may be stored in half
precision."""


@dataclass(frozen=True)
class Join:
    """A shortcut that is added to a convolution's response.

    Attributes
    ----------
    shortcut
        The name of the tensor that is added; it does not depend on the response.
    total
        The name of the sum.
    axes
        The order of the sum's axes: its axis i is axis ``axes[i]`` of the response. The samples' axis is the first of
        both.
    """

    shortcut: str
    total: str
    axes: tuple[int, ...]

    def as_response(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the sum, or the shortcut, with its axes in the order of the response's: [N, d, …]."""
        return values.transpose(np.argsort(self.axes))


class Followers:
    """The nodes that follow the tensors of one network.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    """

    def __init__(self, network: Network) -> None:
        self._nodes: Sequence[gs.Node] = list(network.nodes)
        # The names that every node reads; an If or Loop reads what its bodies read.
        self._reads = [network.reads(node) for node in self._nodes]
        self._outputs = {tensor.name for tensor in network.outputs}
        self._varying = varying_tensors(network)
        # Indices of nodes, by the names of tensors.
        self._readers: dict[str, list[int]] = {}
        self._maker: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            for name in self._reads[index]:
                self._readers.setdefault(name, []).append(index)
            self._maker.update((tensor.name, index) for tensor in node.outputs)

    def of(
        self, response: str, filters: int, rank: int = 4, element: np.dtype[Any] = SINGLE
    ) -> tuple[Activation | None, Join | None]:
        """Return the activation behind a convolution's response, or behind the sum that it joins, and the join.

        Parameters
        ----------
        response
            The name of the tensor that the convolution makes.
        filters
            d, the number of its channels.
        rank, element
            The number of its axes and the type of its values.
        """
        argument, axes = self._same_values(response, tuple(range(rank)), element)
        join = self._join(response, argument, axes)
        if join:
            argument, axes = self._same_values(join.total, axes, element)
        return self._activation(argument, axes, filters), join

    def _same_values(self, name: str, axes: tuple[int, ...], element: np.dtype[Any]) -> tuple[str, tuple[int, ...]]:
        """Return the last of the tensors that hold the values of a tensor, and its axes; nobody else reads the others.

        The order of the axes is described as in ``Join``.
        """
        while name not in self._outputs and len(self._readers.get(name, [])) == 1:
            node = self._nodes[self._readers[name][0]]
            moved = moved_axes(node, element, len(axes))
            if moved is None or moved[0] != 0:
                break
            name, axes = node.outputs[0].name, tuple(axes[axis] for axis in moved)
        return name, axes

    def _join(self, response: str, summand: str, axes: tuple[int, ...]) -> Join | None:
        """Return the addition that is the only reader of ``summand``, a tensor that holds the response's values."""
        readers = self._readers.get(summand, [])
        if summand in self._outputs or len(readers) != 1:
            return None
        node = self._nodes[readers[0]]
        if node.op not in ("Add", "Sum") or node.domain not in STANDARD or len(node.inputs) != 2:
            return None
        shortcut = next((tensor.name for tensor in node.inputs if tensor.name != summand), summand)
        if shortcut not in self._varying or shortcut == summand or not self._is_at_hand(shortcut, response):
            return None
        return Join(shortcut, node.outputs[0].name, axes)

    def _is_at_hand(self, shortcut: str, response: str) -> bool:
        """Whether a shortcut can be had without running more than one convolution behind the response's."""
        behind: set[int] = set()
        stack = [shortcut]
        while stack:
            index = self._maker.get(stack.pop(), -1)
            if index > self._maker[response] and index not in behind:
                behind.add(index)
                stack.extend(self._reads[index])
        return sum(is_convolution(self._nodes[index]) for index in behind) <= 1

    def _activation(self, argument: str, axes: tuple[int, ...], filters: int) -> Activation | None:
        if argument in self._outputs:
            return None
        readers = self._readers.get(argument, [])
        if len(readers) == 1 and self._reads_only(readers[0], {argument}):
            activation = _operator(self._nodes[readers[0]], argument, axes, filters)
            if activation:
                return activation
        return self._composed(argument)

    def _reads_only(self, index: int, names: Container[str]) -> bool:
        """Whether a node reads nothing but these tensors and constants."""
        return all(name in names or name not in self._varying for name in self._reads[index])

    def _composed(self, argument: str) -> Activation | None:
        """Return the activation that several nodes form together.

        Nodes are evaluated one after the other until all readers of the tensors in between are among them.
        """
        values: dict[str, NDArray[np.float64]] = {argument: POINTS}
        inside: set[int] = set()
        for _ in range(LONGEST):
            index = self._next_reader(values, inside)
            result = None if index is None else evaluate(self._nodes[index], values)
            if index is None or result is None:
                return None
            inside.add(index)
            output = self._nodes[index].outputs[0].name
            between = [name for name in values if name != output]
            values[output] = result
            if not self._outputs.isdisjoint(between):
                return None
            if all(inside.issuperset(self._readers.get(name, [])) for name in between):
                activation = _recognised(result)
                if activation:
                    return activation
        return None

    def _next_reader(self, values: Mapping[str, object], inside: set[int]) -> int | None:
        """Return the first node outside that reads one of the tensors; None if it also reads others that vary."""
        waiting = {index for name in values for index in self._readers.get(name, [])} - inside
        return min(waiting) if waiting and self._reads_only(min(waiting), values) else None


def _operator(node: gs.Node, argument: str, axes: tuple[int, ...], filters: int) -> Activation | None:
    """Return the activation that a single node computes from its first input."""
    if node.domain not in STANDARD or node.inputs[0].name != argument or len(node.outputs) != 1:
        return None
    attributes: dict[str, Any] = node.attrs
    match node.op:
        case "Relu":
            return RELU
        case "Clip":
            bounds = clip_bounds(node)
            return clip(*bounds) if bounds and bounds[0] <= bounds[1] else None
        case "LeakyRelu":
            return leaky_relu(float(attributes.get("alpha", 0.01)))
        case "PRelu":
            slopes = _channel_slopes(node.inputs[1], axes, filters)
            return prelu(slopes) if slopes else None
        case "Elu":
            return curves.elu(float(attributes.get("alpha", 1.0)))
        case "Sigmoid":
            return curves.SIGMOID
        case "Tanh":
            return curves.TANH
        case "HardSigmoid":
            alpha, beta = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
            return hard_sigmoid(alpha, beta) if alpha > 0 else None
        case "HardSwish":
            return curves.HARD_SWISH
        case "Swish":
            return curves.SILU if attributes.get("alpha", 1.0) == 1 else None
        case "Gelu":
            return curves.GELU_TANH if attributes.get("approximate", "none") == "tanh" else curves.GELU
        case "Mish":
            return curves.MISH
    return None


def _channel_slopes(tensor: gs.Tensor, axes: tuple[int, ...], filters: int) -> tuple[float, ...] | None:
    """Return the slopes of a PRelu, [1] or [d], where they differ along the channels alone; else None.

    The response has its axes in the order that ``Join`` describes.
    """
    values = find_constant(tensor)
    if values is None or not np.isfinite(values.astype(np.float64)).all():
        return None
    shape = (1,) * (len(axes) - values.ndim) + values.shape
    if len(shape) != len(axes) or shape[axes.index(1)] not in (1, filters):
        return None
    if any(extent != 1 for axis, extent in zip(axes, shape, strict=True) if axis != 1):
        return None
    return tuple(float(value) for value in values.reshape(-1))


def _recognised(values: NDArray[np.float64]) -> Activation | None:
    """Return the nearest of the composed activations if it has these values at ``POINTS``."""
    if values.shape != POINTS.shape or not np.isfinite(values).all():
        return None
    scale = np.maximum(np.abs(POINTS), 1)
    distances = [float((np.abs(values - activation.apply(POINTS)) / scale).max()) for activation in COMPOSED]
    nearest = int(np.argmin(distances))
    return COMPOSED[nearest] if distances[nearest] <= TOLERANCE else None
