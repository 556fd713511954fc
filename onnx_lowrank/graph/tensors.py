"""The constants of a graph, their stored values, and names for new ones."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_graphsurgeon.ir.tensor import LazyValues, SparseValues

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)

FLOATS: dict[np.dtype[Any], int] = {
    np.dtype(np.float16): onnx.TensorProto.FLOAT16,
    np.dtype(np.float32): onnx.TensorProto.FLOAT,
    np.dtype(np.float64): onnx.TensorProto.DOUBLE,
    BFLOAT16: onnx.TensorProto.BFLOAT16,
}
"""The types of weights that can be factorised, with their ONNX numbers."""

ELEMENTS = {number: element for element, number in FLOATS.items()}
"""The same types by their ONNX numbers."""


def is_sparse(constant: gs.Constant) -> bool:
    """Whether the constant is stored as a sparse initializer."""
    return isinstance(constant._values, SparseValues)


def tensor_proto(constant: gs.Constant) -> onnx.TensorProto:
    """Return the constant as an initializer.

    Where the constant has not been changed and the stored tensor already has its name, the stored tensor itself is
    returned: append it (which copies), never edit it.
    """
    values = constant._values
    if not isinstance(values, LazyValues):
        return numpy_helper.from_array(np.asarray(values), constant.name)
    if values.tensor.name == constant.name:
        return values.tensor
    proto = onnx.TensorProto()
    proto.CopyFrom(values.tensor)
    proto.name = constant.name
    return proto


def array(constant: gs.Constant) -> NDArray[Any]:
    """Return the values of a dense constant, which must not be changed.

    The property ``Constant.values`` would replace the stored tensor by a copy for good, doubling the memory.
    """
    values = constant._values
    dense: NDArray[Any] = numpy_helper.to_array(values.tensor) if isinstance(values, LazyValues) else values
    return dense


def dtype(constant: gs.Constant) -> np.dtype[Any]:
    """Return the element type of a dense constant, with bfloat16 as ml_dtypes has it."""
    values = constant._values
    if isinstance(values, LazyValues) and values.tensor.data_type in ELEMENTS:
        return ELEMENTS[values.tensor.data_type]
    return array(constant).dtype


def make_constant(name: str, values: NDArray[Any], as_type: np.dtype[Any]) -> gs.Constant | None:
    """Make a constant of the given element type, or None where a finite value becomes infinite in it.

    Parameters
    ----------
    name
        A name that no other tensor has.
    values
        The values, of any shape; in float64 as a rule.
    as_type
        The element type, one of ``FLOATS``.
    """
    with np.errstate(over="ignore"):
        cast = values.astype(as_type)
    if not np.all(np.isfinite(cast) | ~np.isfinite(values)):
        return None
    # Built from bytes: older versions of numpy_helper do not know bfloat16 arrays.
    proto = onnx.helper.make_tensor(name, FLOATS[as_type], cast.shape, cast.tobytes(), raw=True)
    return gs.Constant(name, LazyValues(proto))


def unique(wanted: str, taken: set[str]) -> str:
    """Return ``wanted``, or ``wanted`` with the first number that makes it new, and mark the name as taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name
