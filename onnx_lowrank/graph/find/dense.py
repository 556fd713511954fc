"""The fully connected layers whose weights can be changed in place."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.graph.kinds import STANDARD
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse, unique
from onnx_lowrank.graph.traverse import behind, count_readers

Array = NDArray[Any]


@dataclass(frozen=True)
class LinearSite:
    """A Gemm, or a MatMul with the Add of its bias: names and arrays, never node objects.

    Attributes
    ----------
    name
        The node's name, or its output's; no other layer that is found, and none of those ``taken``, has the same.
    input, output
        Names of the tensors that the product reads and makes.
    target
        Name of the tensor that a solution is to reproduce: the output, or its sum with the bias.
    weight
        W, [d, p], as the model stores it.
    bias
        b, [d], float64; zeros where there is none.
    intercept
        Whether the bias can be changed: there is one, a number for every response, and nobody else reads it.
    """

    name: str
    input: str
    output: str
    target: str
    weight: Array
    bias: NDArray[np.float64]
    intercept: bool


def find_linears(graph: gs.Graph, sources: Iterable[str], taken: Iterable[str]) -> tuple[LinearSite, ...]:
    """Return the layers of the main graph that depend on one of the tensors ``sources``, in topological order.

    Their weights are stored for them alone. That they read one row of every sample is left to be seen.

    Parameters
    ----------
    graph
        Normalised; it is not changed.
    sources
        Names of tensors.
    taken
        Names that no layer may have.
    """
    changed, names, readers = behind(graph, sources), set(taken), count_readers(graph)
    sites = []
    for node in graph.nodes:
        if node.domain not in STANDARD or node.op not in ("Gemm", "MatMul") or node.inputs[0].name not in changed:
            continue
        if not _owned(node, 1, readers) or len(node.inputs[1].shape) != 2:
            continue
        site = linear_site(node, readers)
        if site and all(np.isfinite(values.astype(np.float64)).all() for values in (site.bias, *site.weight)):
            sites.append(replace(site, name=unique(site.name, names)))
    return tuple(sites)


def linear_site(node: gs.Node, readers: Counter[str]) -> LinearSite | None:
    """Describe a Gemm or MatMul with a constant matrix; None where it does more than that and a bias.

    ``readers`` are those of ``count_readers``.
    """
    return _gemm(node, readers) if node.op == "Gemm" else _matmul(node, readers)


def _owned(node: gs.Node, index: int, readers: Counter[str]) -> bool:
    """Whether an input is a constant of floating type that nobody else reads, nor the node twice."""
    tensor = node.inputs[index]
    if not isinstance(tensor, gs.Constant) or is_sparse(tensor) or dtype(tensor) not in FLOATS:
        return False
    return readers[tensor.name] == 1 and sum(other.name == tensor.name for other in node.inputs) == 1


def _other(add: gs.Node, name: str) -> int:
    """Which input of an Add is not the one of that name."""
    return 1 if add.inputs[0].name == name else 0


def _gemm(node: gs.Node, readers: Counter[str]) -> LinearSite | None:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(node.attrs.get(key, usual) != usual for key, usual in plain.items()):
        return None
    stored = array(node.inputs[1])
    weight = stored if node.attrs.get("transB", 0) else stored.T
    bias, intercept = np.zeros(len(weight)), False
    if len(node.inputs) > 2 and node.inputs[2].name:
        constant = node.inputs[2]
        if not isinstance(constant, gs.Constant) or is_sparse(constant) or tuple(constant.shape[:-1]) not in ((), (1,)):
            return None
        values = array(constant).astype(np.float64).reshape(-1)
        bias = bias + values
        intercept = len(values) == len(weight) and _owned(node, 2, readers)
    return _site(node, node.outputs[0].name, weight, bias, intercept)


def _matmul(node: gs.Node, readers: Counter[str]) -> LinearSite:
    weight, output = array(node.inputs[1]).T, node.outputs[0]
    if readers[output.name] == 1 and len(output.outputs) == 1:
        add = output.outputs[0]
        if add.op == "Add" and add.domain in STANDARD and not add.attrs:
            index = _other(add, output.name)
            shape = add.inputs[index].shape
            if _owned(add, index, readers) and tuple(shape) in ((len(weight),), (1, len(weight))):
                bias = array(add.inputs[index]).astype(np.float64).reshape(-1)
                return _site(node, add.outputs[0].name, weight, bias, True)
    return _site(node, output.name, weight, np.zeros(len(weight)), False)


def _site(node: gs.Node, target: str, weight: Array, bias: Array, intercept: bool) -> LinearSite:
    output = node.outputs[0].name
    return LinearSite(node.name or output, node.inputs[0].name, output, target, weight, bias, intercept)
