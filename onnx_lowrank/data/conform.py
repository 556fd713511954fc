"""Arrays against a model's inputs: the batch axis, the shape, the dtype, the values.

The header (shape and dtype) is judged before any data are read, the values where they are read.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec


def times(shape: tuple[int | str | None, ...]) -> str:
    """Say a shape: "3x224x?"."""
    return "x".join("?" if side is None else str(side) for side in shape) or "a scalar"


def as_array(value: object, where: str) -> NDArray[Any]:
    """Make an array of numbers of whatever NumPy takes for one.

    Raises
    ------
    DataError
        If it is ragged, or holds something else than numbers.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{where} is no array ({' '.join(str(error).split())}): give NumPy arrays") from error
    if array.dtype.kind not in "biufcV":
        raise DataError(f"{where} is a {type(value).__name__} of dtype {array.dtype}, not numbers: give numeric arrays")
    return array


def batch_shape(shape: tuple[int, ...], spec: TensorSpec, where: str) -> tuple[int, ...]:
    """Judge an array's shape.

    Parameters
    ----------
    shape
        The array's shape, with the batch axis or, for a single sample, without.
    spec
        The input it is for. Symbolic and unknown dimensions take any size, and so does the first, the batch.
    where
        What to call the array in messages.

    Returns
    -------
    tuple[int, ...]
        The shape with the batch axis.

    Raises
    ------
    DataError
        If the rank or a static dimension differs.
    """
    if spec.shape is None:
        full = shape
    elif len(shape) == len(spec.shape) - 1:
        full = (1, *shape)
    else:
        full = shape
    wanted = full if spec.shape is None else spec.shape
    fits = len(full) == len(wanted) and all(
        not isinstance(want, int) or have == want for have, want in zip(full[1:], wanted[1:], strict=True)
    )
    if not full or not fits:
        raise DataError(
            f"{where} has shape {times(shape)}, but input {spec.name!r} takes {times(('N', *wanted[1:]))} (N samples): "
            "reshape or transpose the data"
        )
    return full


def check_dtype(dtype: np.dtype[Any], spec: TensorSpec, where: str, warn: Callable[[str], None]) -> None:
    """Judge an array's dtype: numbers go into numbers, except fractions into an integer input.

    Raises
    ------
    DataError
        If the conversion would lose what the data mean.
    """
    if dtype == spec.dtype and not dtype.hasobject:
        return
    # Kind "V" covers bfloat16 and the 8-bit floats, which NumPy knows only through ml_dtypes.
    into = {"f": "biufV", "V": "biufV", "i": "biu", "u": "biu", "b": "b"}.get(spec.dtype.kind, "")
    if dtype.kind not in into or dtype.names is not None:
        raise DataError(f"{where} is {dtype}, but input {spec.name!r} takes {spec.dtype}: convert the data")
    if dtype.kind in "biu" and spec.dtype.kind in "fV":
        warn(
            f"data for input {spec.name!r} are {dtype} and the input is {spec.dtype}: the values are taken as they "
            "are, without scaling; store them normalised if the model wants that"
        )


def check_values(rows: NDArray[Any], spec: TensorSpec, where: str, numbers: NDArray[np.int64] | range) -> NDArray[Any]:
    """Convert samples to the input's dtype and judge the values.

    Parameters
    ----------
    rows
        Samples, shape [n, ...].
    spec
        The input they are for.
    where
        What to call the array in messages.
    numbers
        The number of each sample in its file, for messages, length n.

    Returns
    -------
    NDArray[Any]
        The samples in the input's dtype.

    Raises
    ------
    DataError
        On NaN or infinity, and on numbers that the input's dtype cannot hold; names the first such sample.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is found below, as infinity
        values = rows.astype(spec.dtype, copy=False)
    flat = (len(rows), -1)
    if rows.dtype.kind in "fV":
        finite = np.isfinite(rows).reshape(flat).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise DataError(f"{where}, sample {numbers[bad]} holds NaN or infinity: repair or remove it")
    if values.dtype != rows.dtype:
        kept = (np.isfinite(values) if values.dtype.kind in "fV" else values == rows).reshape(flat).all(axis=1)
        if not kept.all():
            bad = int(np.argmin(kept))
            low, high = rows[bad].min(), rows[bad].max()
            raise DataError(
                f"{where}, sample {numbers[bad]} has values {low}..{high}, which input {spec.name!r} ({spec.dtype}) "
                "cannot hold: scale the data or use another dtype"
            )
    return values
