"""Checks of arrays against a model's inputs: the dtype, the values.

The header (shape and dtype) is checked before any data are read, the values where they are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.messages import reason
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Warn


@dataclass(frozen=True)
class Header:
    """What is known of an array before its data are read.

    Attributes
    ----------
    key
        The array's name; empty where there is only one array.
    shape, dtype
        As in NumPy.
    """

    key: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def headers_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Header]:
    """Return the headers of arrays in memory, by key."""
    return {key: Header(key, array.shape, array.dtype) for key, array in arrays.items()}


def as_array(value: object, label: str) -> NDArray[Any]:
    """Convert a value to an array of numbers.

    Parameters
    ----------
    value
        Anything that NumPy takes for an array.
    label
        The value's name in messages.

    Raises
    ------
    DataError
        If the value is ragged, or holds something other than numbers.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{label} cannot be read as an array ({reason(error)}): give NumPy arrays") from error
    if array.dtype.kind not in "biufcV":
        raise DataError(f"{label} is a {type(value).__name__} of dtype {array.dtype}, not numbers: give numeric arrays")
    return array


def check_dtype(dtype: np.dtype[Any], spec: TensorSpec, label: str, warn: Warn) -> None:
    """Check an array's dtype: an input takes any numbers, except that an integer input takes no fractions.

    Raises
    ------
    DataError
        If the conversion would change the meaning of the data.
    """
    if dtype == spec.dtype and not dtype.hasobject:
        return
    # Kind "V" covers bfloat16 and the 8-bit floats, which NumPy knows only through ml_dtypes.
    accepted = {"f": "biufV", "V": "biufV", "i": "biu", "u": "biu", "b": "b"}.get(spec.dtype.kind, "")
    if dtype.kind not in accepted or dtype.names is not None:
        raise DataError(f"{label} is {dtype}, but input {spec.name!r} takes {spec.dtype}: convert the data")
    if dtype.kind in "biu" and spec.dtype.kind in "fV":
        warn(
            f"the data for input {spec.name!r} are {dtype}, but the input is {spec.dtype}: the values are converted "
            "without scaling; store them normalised if the model expects that"
        )


def check_values(samples: NDArray[Any], spec: TensorSpec, label: str, numbers: NDArray[np.int64]) -> NDArray[Any]:
    """Convert samples to the input's dtype and check their values.

    Parameters
    ----------
    samples
        Samples, shape [n, ...].
    spec
        The input.
    label
        The array's name in messages.
    numbers
        The number of each sample in its file, for messages, shape [n].

    Returns
    -------
    NDArray[Any]
        The samples in the input's dtype, shape [n, ...].

    Raises
    ------
    DataError
        On NaN or infinity, and on numbers that the input's dtype cannot hold. The text names the first such sample.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # an overflow becomes infinity, which is refused below
        values = samples.astype(spec.dtype, copy=False)
    flat = (len(samples), -1)
    if samples.dtype.kind in "fV":
        finite = np.isfinite(samples).reshape(flat).all(axis=1)
        if not finite.all():
            bad = int(np.argmin(finite))
            raise DataError(f"{label}, sample {numbers[bad]} holds NaN or infinity: repair or remove it")
    if values.dtype != samples.dtype:
        kept = (np.isfinite(values) if values.dtype.kind in "fV" else values == samples).reshape(flat).all(axis=1)
        if not kept.all():
            bad = int(np.argmin(kept))
            low, high = samples[bad].min(), samples[bad].max()
            raise DataError(
                f"{label}, sample {numbers[bad]} has values {low}..{high}, which input {spec.name!r} ({spec.dtype}) "
                "cannot hold: scale the data or use another dtype"
            )
    return values
