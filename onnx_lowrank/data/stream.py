"""Samples from a CalibrationDataReader of ONNX Runtime, a generator, a data loader or another iterable of batches.

A stream may be endless and can be read only once, so it is read until there are enough samples, and these are kept.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.data.arranged import without_axis
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.conform import as_array, headers_of
from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.messages import plural
from onnx_lowrank.data.parts import Part, check_headers, gather, match_keys
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.progress import Warn


def open_stream(stream: object, specs: tuple[TensorSpec, ...], draw: Draw) -> ArraySource:
    """Read batches until there are enough samples.

    Parameters
    ----------
    stream
        An object with ``get_next()``, which returns a batch or, at the end, None; or an iterable of batches. A batch
        is a dict from input name to array, with the batch axis. For a model with one input it may also be the array
        itself, or a tuple that begins with the array, as data loaders yield it (inputs, labels).
    specs
        The model's inputs.
    draw
        How many samples are read at most, and in which order they are served.

    Returns
    -------
    ArraySource
        The samples, in memory.

    Raises
    ------
    DataError
        If the stream is empty or a batch does not fit the model.
    UsageError
        If ``stream`` cannot be read as a stream.
    """
    origin = f"a {type(stream).__name__}"
    parts: list[Part] = []
    available = 0
    for number, batch in enumerate(_batches(stream)):
        label = f"batch {number} from {origin}"
        parts.append(_part(_by_name(batch, specs, label), specs, label, draw.warn))
        available += parts[-1].rows
        if draw.count is not None and available >= draw.count:
            available = draw.count
            break
    if not available:
        raise DataError(f"{origin} gave no samples: give a fresh one (a reader or generator can be read only once)")
    arrays = gather(parts, draw.indices(available), specs)
    return ArraySource(arrays, f"{plural(available, 'sample')} from {origin}", whole=without_axis(specs))


def _batches(stream: object) -> Iterator[object]:
    get_next = getattr(stream, "get_next", None)
    if callable(get_next):
        return iter(get_next, None)
    try:
        return iter(stream)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise UsageError(
            f"calibration data of type {type(stream).__name__} are not supported: give a path, an array, a dict of "
            "arrays, a CalibrationDataReader or an iterable of batches"
        ) from None


def _by_name(batch: object, specs: tuple[TensorSpec, ...], label: str) -> dict[str, NDArray[Any]]:
    if isinstance(batch, Mapping):
        return {str(name): as_array(value, label) for name, value in batch.items()}
    if isinstance(batch, str | os.PathLike):
        raise DataError(f"{label} is text, not numbers: give arrays, or a single path in place of several")
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{label} has the type {type(batch).__name__}, but the model has the inputs {names}: "
            "give dicts from input name to array"
        )
    if isinstance(batch, (tuple, list)) and batch and hasattr(batch[0], "shape") and len(batch[0].shape):
        batch = batch[0]
    return {specs[0].name: as_array(batch, label)}


def _part(arrays: dict[str, NDArray[Any]], specs: tuple[TensorSpec, ...], label: str, warn: Warn) -> Part:
    headers = match_keys(headers_of(arrays), specs, label)
    # A copy, since a reader may refill one buffer for every batch.
    copies: Feeds = {name: arrays[header.key].copy() for name, header in headers.items()}
    return Part(label, check_headers(headers, specs, label, warn), lambda: copies)
