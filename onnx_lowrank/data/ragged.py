"""Samples of several shapes in memory: lists and object arrays, for one input or by the inputs' names."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.conform import as_array
from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.messages import shape_text
from onnx_lowrank.data.readings import readings, with_rows
from onnx_lowrank.data.stream import open_stream
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec


def is_ragged(value: object) -> bool:
    """Whether a value holds arrays that differ in shape, so that NumPy makes no array of them."""
    if isinstance(value, np.ndarray):
        return value.dtype.hasobject and value.ndim == 1 and all(hasattr(item, "shape") for item in value)
    return isinstance(value, (list, tuple)) and len({getattr(item, "shape", None) for item in value}) > 1


def open_ragged(arrays: Mapping[Any, object], specs: tuple[TensorSpec, ...], draw: Draw) -> ArraySource:
    """Open samples of which some inputs come as lists of arrays that differ in shape, and others as plain arrays.

    Parameters
    ----------
    arrays
        Lists of one array for each sample, or plain arrays, by the inputs' names.
    specs, draw
        See ``open_stream``.

    Raises
    ------
    DataError
        If the lists are not equally long, or an array does not fit its input.
    """
    origin = "the given arrays"
    lists: dict[str, Any] = {str(name): value for name, value in arrays.items() if is_ragged(value)}
    counts = {name: len(value) for name, value in lists.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(f"{origin} have different numbers of samples ({found}): give as many for each input")
    rows = next(iter(counts.values()))
    rest: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if spec.name in arrays and spec.name not in lists:
            array = as_array(arrays[spec.name], f"the given array {spec.name!r}")
            way = with_rows(list(readings(array.shape, spec)), rows)
            if way is None:
                raise DataError(
                    f"the given array {spec.name!r} has shape {shape_text(array.shape)}, which is not one value for "
                    f"each of the {rows} samples of the others, nor one for all: give as many"
                )
            samples = way.samples(array)
            rest[spec.name] = np.broadcast_to(samples, (rows, *samples.shape[1:]))
    drawn = [{name: value[row] for name, value in (lists | rest).items()} for row in draw.indices(rows)]
    return open_stream(drawn, specs, Draw(None, draw.seed, draw.warn))
