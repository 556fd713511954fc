"""The fully connected layers: a Gemm, or a MatMul with the Add of its bias, by a stored matrix.

Such a layer makes y = x Wᵀ + b, with x [n, p], W [d, p], b [d] and y [n, d].
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper

from onnx_lowrank.graph.kinds import STANDARD, is_dense
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.tensors import FLOATS, array, dtype, is_sparse, tensor_proto
from onnx_lowrank.graph.traverse import behind, count_readers

_Bias = tuple[str, NDArray[np.float64], bool]
"""(target, bias [d], intercept); see ``DenseLayer``."""


@dataclass(frozen=True)
class DenseLayer:
    """A fully connected layer: names, arrays and stored tensors, never node objects.

    Attributes
    ----------
    name
        The node's name; the output tensor's name if the node has none, or shares it with another layer. A layer that
        is also a site has the site's name, and no two layers of a model have the same.
    input, output
        Names of the tensors that the product reads and makes.
    target
        Name of the tensor that a solution is to reproduce: the output, or its sum with the bias.
    shape
        (d, p), the numbers of responses and of inputs.
    dtype
        The type of the weights in the model.
    bias
        b, [d], float64; zeros where there is none.
    intercept
        Whether the bias can be replaced: there is one, a number for every response, and nobody else reads it.
    owns_weight
        Whether the weight can be replaced: nobody else reads it.
    stored
        W as it stands in the model.
    transposed
        Whether it is stored as [p, d].
    """

    name: str
    input: str
    output: str
    target: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    bias: NDArray[np.float64]
    intercept: bool
    owns_weight: bool
    stored: onnx.TensorProto
    transposed: bool

    @property
    def weight(self) -> NDArray[Any]:
        """W, [d, p], in the model's type.

        It is decoded at every call: arrays kept for all layers would take as much memory as the model itself.
        """
        stored: NDArray[Any] = numpy_helper.to_array(self.stored)
        return stored.T if self.transposed else stored


def find_dense(network: Network, names: Mapping[str, str]) -> tuple[DenseLayer, ...]:
    """Describe the fully connected layers of the main graph that do no more than multiply and add, in their order.

    Parameters
    ----------
    network
        Normalised; it is not changed.
    names
        The layers' names by the names of their outputs.
    """
    readers = count_readers(network)
    layers = (_describe(node, names, readers) for node in network.nodes if is_dense(node))
    return tuple(layer for layer in layers if layer)


def refittable(network: Network, layers: Iterable[DenseLayer], sources: Iterable[str]) -> tuple[DenseLayer, ...]:
    """Return those of the layers whose weights can be fitted again once the tensors ``sources`` have changed.

    They depend on one of these tensors, own their weights, and all their weights are finite. Whether they read one row
    of every sample is not known here.
    """
    changed = behind(network, sources)
    return tuple(layer for layer in layers if layer.input in changed and layer.owns_weight and _is_finite(layer))


def other_operand(add: gs.Node, name: str) -> int:
    """Return the index of the operand of an Add that is not the tensor of this name."""
    return 1 if add.inputs[0].name == name else 0


def _is_finite(layer: DenseLayer) -> bool:
    # Row by row, since a copy of a large weight in float64 takes twice its memory.
    return all(np.isfinite(values.astype(np.float64)).all() for values in (layer.bias, *layer.weight))


def _describe(node: gs.Node, names: Mapping[str, str], readers: Counter[str]) -> DenseLayer | None:
    """Describe a product by a constant; None where it does more than that, or by a weight that is no plain matrix."""
    weight, output = node.inputs[1], node.outputs[0].name
    if not _is_plain(weight) or len(weight.shape) != 2:
        return None
    transposed = node.op == "MatMul" or not node.attrs.get("transB", 0)
    shape = tuple(reversed(weight.shape)) if transposed else tuple(weight.shape)
    find_bias = _gemm_bias if node.op == "Gemm" else _matmul_bias
    bias = find_bias(node, shape[0], readers)
    if bias is None:
        return None
    target, values, intercept = bias
    return DenseLayer(
        name=names[output],
        input=node.inputs[0].name,
        output=output,
        target=target,
        shape=shape,
        dtype=dtype(weight),
        bias=values,
        intercept=intercept,
        owns_weight=_is_owned(node, 1, readers),
        stored=tensor_proto(weight),
        transposed=transposed,
    )


def _gemm_bias(node: gs.Node, d: int, readers: Counter[str]) -> _Bias | None:
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    if any(node.attrs.get(key, default) != default for key, default in plain.items()):
        return None
    output = node.outputs[0].name
    if len(node.inputs) < 3 or not node.inputs[2].name:
        return output, np.zeros(d), False
    constant = node.inputs[2]
    if not isinstance(constant, gs.Constant) or is_sparse(constant) or tuple(constant.shape[:-1]) not in ((), (1,)):
        return None
    values = array(constant).astype(np.float64).reshape(-1)
    if len(values) not in (1, d):
        return None
    return output, np.zeros(d) + values, len(values) == d and _is_owned(node, 2, readers)


def _matmul_bias(node: gs.Node, d: int, readers: Counter[str]) -> _Bias:
    output = node.outputs[0]
    if readers[output.name] == 1 and len(output.outputs) == 1:
        add = output.outputs[0]
        if add.op == "Add" and add.domain in STANDARD and not add.attrs:
            index = other_operand(add, output.name)
            if _is_owned(add, index, readers) and tuple(add.inputs[index].shape) in ((d,), (1, d)):
                values = array(add.inputs[index]).astype(np.float64).reshape(-1)
                return add.outputs[0].name, values, True
    return output.name, np.zeros(d), False


def _is_plain(tensor: gs.Tensor) -> bool:
    """Whether a tensor is a dense constant of floating type."""
    return isinstance(tensor, gs.Constant) and not is_sparse(tensor) and dtype(tensor) in FLOATS


def _is_owned(node: gs.Node, index: int, readers: Counter[str]) -> bool:
    """Whether an operand is a dense constant of floating type that nobody else reads, nor the node twice."""
    tensor = node.inputs[index]
    if not _is_plain(tensor):
        return False
    return readers[tensor.name] == 1 and sum(other.name == tensor.name for other in node.inputs) == 1
