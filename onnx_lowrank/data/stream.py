"""Samples from ONNX Runtime's CalibrationDataReader, a generator, a data loader or any other iterable of batches.

A stream may be endless and can be read once, so it is read until enough samples are there, and those are kept.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from numpy.typing import NDArray

from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.choose import choose
from onnx_lowrank.data.conform import as_array
from onnx_lowrank.data.npy_files import Header
from onnx_lowrank.data.parts import Part, gather, make_part, match_keys
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import Feeds, TensorSpec


def open_stream(
    data: object, specs: tuple[TensorSpec, ...], *, count: int, seed: int, warn: Callable[[str], None]
) -> ArraySource:
    """Read batches until ``count`` samples are there.

    Parameters
    ----------
    data
        An object with ``get_next()`` (a dict, or None at the end), or an iterable. A batch is a dict name → array
        with the batch axis; for a model with one input also the array itself, or a tuple that begins with it, as
        data loaders give (inputs, labels).
    specs
        The model's inputs.
    count
        How many samples to take at most.
    seed
        Seed of the order in which they are served.
    warn
        Told of conversions worth knowing.

    Returns
    -------
    ArraySource
        The samples, in memory.

    Raises
    ------
    DataError
        If the stream is empty or a batch does not fit the model.
    UsageError
        If ``data`` is nothing that can be read as a stream.
    """
    what = f"a {type(data).__name__}"
    parts: list[Part] = []
    have = 0
    choose(0, count, seed)  # a bad count must not read an endless stream
    for number, item in enumerate(_batches(data)):
        where = f"batch {number} from {what}"
        parts.append(_part(_named(item, specs, where), specs, where, warn))
        have += parts[-1].rows
        if have >= count:
            break
    if not have:
        raise DataError(f"{what} gave no samples: give a fresh one (a reader or generator can be read only once)")
    taken = min(have, count)
    arrays = gather(parts, choose(taken, count, seed), specs)
    return ArraySource(arrays, description=f"{taken} samples from {what}")


def _batches(data: object) -> Iterator[object]:
    get_next = getattr(data, "get_next", None)
    if callable(get_next):
        return iter(get_next, None)
    try:
        return iter(data)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise UsageError(
            f"calibration data of type {type(data).__name__} is unknown: give a path, an array, a dict of arrays, a "
            "CalibrationDataReader or an iterable of batches"
        ) from None


def _named(item: object, specs: tuple[TensorSpec, ...], where: str) -> dict[str, NDArray[Any]]:
    if isinstance(item, Mapping):
        return {str(name): as_array(value, where) for name, value in item.items()}
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        raise DataError(f"{where} is a {type(item).__name__}, but the model has the inputs {names}: give dicts by name")
    if isinstance(item, (tuple, list)) and item and hasattr(item[0], "shape") and len(item[0].shape):
        item = item[0]
    return {specs[0].name: as_array(item, where)}


def _part(
    arrays: dict[str, NDArray[Any]], specs: tuple[TensorSpec, ...], where: str, warn: Callable[[str], None]
) -> Part:
    found = match_keys({name: Header(name, array.shape, array.dtype) for name, array in arrays.items()}, specs, where)
    # A copy, since readers may refill one buffer for every batch.
    own: Feeds = {name: arrays[header.key].copy() for name, header in found.items()}
    return make_part(where, found, lambda: own, specs, warn)
