"""What follows a convolution's response y: an activation, a shortcut that is added to it, or both.

    y → r                  the activation r, alone
    y → + s                a shortcut s that joins, and nothing that the solver knows behind the sum
    y → + s → r            a residual block: r is that of the sum

Nodes that change no value may stand between any two of these: an Identity, a Cast to the type that is there already, a
Transpose where the network keeps its channels last.

What is approximated must be seen by nobody else. So an activation is one only if every reader of its argument is part
of it, and a join is one only if y is read by the addition alone; y, or what lies between y and r(y), must not be an
output of the model.
"""

from collections.abc import Container, Sequence
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
from onnx_lowrank.graph.protos import reads
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
"""Nodes of the longest spelling, and a few more."""

POINTS = np.linspace(-8, 8, 257)
"""Where a spelling is compared with the activations."""

TOLERANCE = 5e-4
"""Of a value's difference, relative to its argument beyond 1: constants may be stored in half precision."""


@dataclass(frozen=True)
class Join:
    """A shortcut that is added to a convolution's response, names of tensors.

    Attributes
    ----------
    shortcut
        What is added; it does not depend on the response.
    total
        The sum.
    axes
        How the sum lies: its axis i is axis ``axes[i]`` of the response. The first is the samples' in both.
    """

    shortcut: str
    total: str
    axes: tuple[int, ...]

    def as_response(self, values: NDArray[Any]) -> NDArray[Any]:
        """The sum, or the shortcut, with its axes in the order of the response's: [N, d, …]."""
        return values.transpose(np.argsort(self.axes))


class Followers:
    """What follows the tensors of one graph.

    Parameters
    ----------
    graph
        Normalised; it is not changed.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._nodes: Sequence[gs.Node] = list(graph.nodes)
        self._outputs = {tensor.name for tensor in graph.outputs}
        self._varying = varying_tensors(graph)
        # Numbers of nodes, in topological order; an If or Loop reads what its bodies read.
        self._readers: dict[str, list[int]] = {}
        self._maker: dict[str, int] = {}
        for number, node in enumerate(self._nodes):
            for name in reads(node):
                self._readers.setdefault(name, []).append(number)
            self._maker.update((tensor.name, number) for tensor in node.outputs)

    def of(
        self, response: str, filters: int, rank: int = 4, element: np.dtype[Any] = SINGLE
    ) -> tuple[Activation | None, Join | None]:
        """The activation behind a convolution's response, or behind the sum that it joins, and the join.

        Parameters
        ----------
        response
            The name of the tensor that the convolution makes.
        filters
            d, the number of its channels.
        rank, element
            The number of its axes and the type of its values.
        """
        seen, axes = self._same_values(response, tuple(range(rank)), element)
        join = self._join(response, seen, axes)
        if join:
            seen, axes = self._same_values(join.total, axes, element)
        return self._activation(seen, axes, filters), join

    def _same_values(self, name: str, axes: tuple[int, ...], element: np.dtype[Any]) -> tuple[str, tuple[int, ...]]:
        """The last of the tensors that hold the values of a tensor, and how it lies; nobody else reads those before."""
        while name not in self._outputs and len(self._readers.get(name, [])) == 1:
            node = self._nodes[self._readers[name][0]]
            moved = moved_axes(node, element, len(axes))
            if moved is None or moved[0] != 0:
                break
            name, axes = node.outputs[0].name, tuple(axes[axis] for axis in moved)
        return name, axes

    def _join(self, response: str, seen: str, axes: tuple[int, ...]) -> Join | None:
        readers = self._readers.get(seen, [])
        if seen in self._outputs or len(readers) != 1:
            return None
        node = self._nodes[readers[0]]
        if node.op not in ("Add", "Sum") or node.domain not in STANDARD or len(node.inputs) != 2:
            return None
        shortcut = next((tensor.name for tensor in node.inputs if tensor.name != seen), seen)
        if shortcut not in self._varying or shortcut == seen or not self._is_at_hand(shortcut, response):
            return None
        return Join(shortcut, node.outputs[0].name, axes)

    def _is_at_hand(self, shortcut: str, response: str) -> bool:
        """Whether what comes behind the convolution does not have to be run, but for one projection, for a shortcut."""
        seen: set[int] = set()
        stack = [shortcut]
        while stack:
            number = self._maker.get(stack.pop(), -1)
            if number > self._maker[response] and number not in seen:
                seen.add(number)
                stack.extend(reads(self._nodes[number]))
        return sum(is_convolution(self._nodes[number]) for number in seen) <= 1

    def _activation(self, argument: str, axes: tuple[int, ...], filters: int) -> Activation | None:
        if argument in self._outputs:
            return None
        readers = self._readers.get(argument, [])
        if len(readers) == 1 and self._reads_only(self._nodes[readers[0]], {argument}):
            alone = _operator(self._nodes[readers[0]], argument, axes, filters)
            if alone:
                return alone
        return self._composed(argument)

    def _reads_only(self, node: gs.Node, names: Container[str]) -> bool:
        """Whether all that a node reads are these tensors and constants."""
        return all(name in names or name not in self._varying for name in reads(node))

    def _composed(self, argument: str) -> Activation | None:
        """The activation that several nodes make together: they are evaluated until all readers are among them."""
        values: dict[str, NDArray[np.float64]] = {argument: POINTS}
        inside: set[int] = set()
        for _ in range(LONGEST):
            waiting = {number for name in values for number in self._readers.get(name, [])} - inside
            if not waiting:
                return None
            number = min(waiting)
            made = evaluate(self._nodes[number], values) if self._reads_only(self._nodes[number], values) else None
            if made is None:
                return None
            last = self._nodes[number].outputs[0].name
            inside.add(number)
            between = [name for name in values if name != last]
            values[last] = made
            if not self._outputs.isdisjoint(between):
                return None
            if all(inside.issuperset(self._readers.get(name, [])) for name in between):
                found = _recognised(made)
                if found:
                    return found
        return None


def _operator(node: gs.Node, argument: str, axes: tuple[int, ...], filters: int) -> Activation | None:
    """The activation that a single node is, of its first input."""
    if node.domain not in STANDARD or node.inputs[0].name != argument or len(node.outputs) != 1:
        return None
    attribute: dict[str, Any] = node.attrs
    match node.op:
        case "Relu":
            return RELU
        case "Clip":
            bounds = clip_bounds(node)
            return clip(*bounds) if bounds and bounds[0] <= bounds[1] else None
        case "LeakyRelu":
            return leaky_relu(float(attribute.get("alpha", 0.01)))
        case "PRelu":
            slopes = _channel_slopes(node.inputs[1], axes, filters)
            return prelu(slopes) if slopes else None
        case "Elu":
            return curves.elu(float(attribute.get("alpha", 1.0)))
        case "Sigmoid":
            return curves.SIGMOID
        case "Tanh":
            return curves.TANH
        case "HardSigmoid":
            alpha, beta = float(attribute.get("alpha", 0.2)), float(attribute.get("beta", 0.5))
            return hard_sigmoid(alpha, beta) if alpha > 0 else None
        case "HardSwish":
            return curves.HARD_SWISH
        case "Swish":
            return curves.SILU if attribute.get("alpha", 1.0) == 1 else None
        case "Gelu":
            return curves.GELU_TANH if attribute.get("approximate", "none") == "tanh" else curves.GELU
        case "Mish":
            return curves.MISH
    return None


def _channel_slopes(tensor: gs.Tensor, axes: tuple[int, ...], filters: int) -> tuple[float, ...] | None:
    """The slopes of a PRelu that differ from channel to channel at most, of a response that lies so."""
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
    """The nearest of the composed activations, if it has these values at ``POINTS``."""
    if values.shape != POINTS.shape or not np.isfinite(values).all():
        return None
    scale = np.maximum(np.abs(POINTS), 1)
    far = [float((np.abs(values - activation.apply(POINTS)) / scale).max()) for activation in COMPOSED]
    nearest = int(np.argmin(far))
    return COMPOSED[nearest] if far[nearest] <= TOLERANCE else None
