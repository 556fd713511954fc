"""What passes between NumPy and ONNX Runtime, whose Python interface does not know all types as arrays.

bfloat16 and the floats of 8 bits are arrays of ``ml_dtypes``; ONNX Runtime takes them with their type beside them. It
returns no such arrays.
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.errors import ModelError

ARRAYS = {
    f"tensor({name})"
    for name in (
        *("float", "float16", "double", "bool", "string"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
}
"""The types that are arrays of NumPy's own."""

OF_A_LIBRARY = 2
"""What NumPy's ``dtype.isbuiltin`` is for types such as those of ``ml_dtypes``."""


def is_numeric(kind: str) -> bool:
    """Whether a type is an array of numbers, which can be kept and copied byte by byte."""
    return kind in ARRAYS and kind != "tensor(string)"


def is_tensor(kind: str) -> bool:
    """Whether a type of ONNX Runtime's, such as "tensor(float)", is an array of NumPy's own."""
    return kind in ARRAYS


def is_array(kind: str) -> bool:
    """Whether ONNX Runtime can return values of a type: arrays, and sequences, optionals and maps of them."""
    low = "bfloat16", "float8", "float4", "int4", "int2", "complex"
    return kind in ARRAYS or not any(name in kind for name in low)


def fed_value(name: str, value: NDArray[Any]) -> Any:
    """Return an array as ONNX Runtime takes it.

    Raises
    ------
    ModelError
        If it takes no arrays of this type.
    """
    if not isinstance(value, np.ndarray) or value.dtype.isbuiltin != OF_A_LIBRARY:
        return value
    import onnxruntime

    number = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    plain = {"bfloat16": np.uint16}.get(value.dtype.name, np.uint8 if "float8" in value.dtype.name else None)
    if plain is None or not hasattr(onnxruntime.OrtValue, "ortvalue_from_numpy_with_onnx_type"):
        raise ModelError(
            f"input {name!r} takes {value.dtype}, which the Python interface of this ONNX Runtime cannot pass on: "
            "let the model take another type and cast it"
        )
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(value).view(plain), number)


def as_held(value: Any) -> Any:
    """Return an array as ONNX Runtime holds it."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(value) if isinstance(value, np.ndarray) else value
