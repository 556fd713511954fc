"""Samples in one or many files of arrays: which array feeds which input, and the samples drawn from all of them.

A *part* is one file (or one ``test_data_set_*`` folder) with some samples for every input. The headers of all parts
are checked first; then only the parts that hold drawn samples are loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.conform import Header, batch_shape, check_dtype, check_values
from onnx_lowrank.data.messages import array_label, input_label, shape_text
from onnx_lowrank.data.npy_files import read_array, read_headers
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.progress import Warn

LABEL_KEYS = ("labels", "label", "y")
"""Names of arrays that hold class numbers and feed no input."""

_COMMON_KEYS = ("input", "data", "images", "x")


@dataclass(frozen=True)
class Part:
    """Some samples for every input.

    Attributes
    ----------
    origin
        Where the part comes from, for messages.
    shapes
        The shape of each input's array, the batch axis first; all arrays agree on that axis.
    load
        Reads the arrays, by input, as they are stored.
    """

    origin: str
    shapes: dict[str, tuple[int, ...]]
    load: Callable[[], Feeds]

    @property
    def rows(self) -> int:
        """The number of samples."""
        return next(iter(self.shapes.values()))[0]


def check_headers(
    headers: Mapping[str, Header], specs: tuple[TensorSpec, ...], origin: str, warn: Warn
) -> dict[str, tuple[int, ...]]:
    """Check the arrays of one part by their headers.

    Parameters
    ----------
    headers
        A header for each input, by the input's name.
    specs
        The model's inputs.
    origin
        Where the arrays come from, for messages.
    warn
        Receives a line for each conversion worth knowing.

    Returns
    -------
    dict[str, tuple[int, ...]]
        The shape of each input's array, with the batch axis.

    Raises
    ------
    DataError
        If an array does not fit its input, or the inputs have different numbers of samples.
    """
    shapes = {}
    for spec in specs:
        header = headers[spec.name]
        label = array_label(origin, header.key)
        if not header.dtype.hasobject:  # Python objects are refused where they are read, for a reason of their own
            check_dtype(header.dtype, spec, label, warn)
        shapes[spec.name] = batch_shape(header.shape, spec, label)
    rows = {name: shape[0] for name, shape in shapes.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{name}: {count}" for name, count in rows.items())
        raise DataError(f"{origin} has different numbers of samples for the inputs ({counts}): give as many for each")
    return shapes


def file_part(path: Path, specs: tuple[TensorSpec, ...], warn: Warn) -> Part:
    """Open a ``.npy`` or ``.npz`` file as a part.

    Raises
    ------
    DataError
        If the file cannot be read, or its arrays do not fit the inputs.
    """
    stored = read_headers(path)
    for header in stored.values():
        if header.dtype.hasobject and header.key not in LABEL_KEYS:
            read_array(path, header.key)  # raises the error that says why
    headers = match_keys(stored, specs, str(path))

    def load() -> Feeds:
        return {name: read_array(path, header.key) for name, header in headers.items()}

    return Part(str(path), check_headers(headers, specs, str(path), warn), load)


def match_keys(stored: Mapping[str, Header], specs: tuple[TensorSpec, ...], origin: str) -> dict[str, Header]:
    """Decide which array feeds which input.

    Arrays with the names of the inputs come first. A model with one input also takes "input", "data", "images" or
    "x", or the only array that has the input's rank. Labels feed no input.

    Parameters
    ----------
    stored
        The headers of all arrays, by key.
    specs
        The model's inputs.
    origin
        Where the arrays come from, for messages.

    Returns
    -------
    dict[str, Header]
        A header for each input, by the input's name.

    Raises
    ------
    DataError
        If no array fits an input, or several fit the only input.
    """
    if all(spec.name in stored for spec in specs):
        return {spec.name: stored[spec.name] for spec in specs}
    others = {key: header for key, header in stored.items() if key not in LABEL_KEYS}
    candidates: Sequence[Header] = ()
    if len(specs) == 1:
        rank = None if specs[0].shape is None else len(specs[0].shape)
        candidates = [header for key, header in others.items() if key.lower() in _COMMON_KEYS][:1]
        candidates = candidates or [header for header in others.values() if rank in (None, len(header.shape))]
        if not candidates and "" in others:  # the one array of a .npy, perhaps a single sample
            candidates = [others[""]]
        candidates = candidates or [header for header in others.values() if len(header.shape) + 1 == rank]
    if len(candidates) != 1:
        arrays = ", ".join(f"{header.key or 'one array'} ({shape_text(header.shape)})" for header in stored.values())
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{origin} holds {arrays or 'no arrays'}, but the model has the inputs {names}: use those names"
        )
    return {specs[0].name: candidates[0]}


def gather(parts: Sequence[Part], order: NDArray[np.int64], specs: tuple[TensorSpec, ...]) -> Feeds:
    """Load the drawn samples of all parts into one array for each input.

    Parameters
    ----------
    parts
        The parts; their samples are numbered consecutively.
    order
        Sample numbers in the order wanted, shape [n].
    specs
        The model's inputs.

    Returns
    -------
    Feeds
        For each input the samples, shape [n, ...], in its dtype.

    Raises
    ------
    DataError
        If the samples of two parts differ in shape, or a sample holds NaN, infinity or values out of range.
    """
    _check_one_shape(parts)
    ends = np.cumsum([part.rows for part in parts])
    owners = np.searchsorted(ends, order, side="right")
    gathered: dict[str, NDArray[Any]] = {
        spec.name: np.empty((len(order), *parts[0].shapes[spec.name][1:]), spec.dtype) for spec in specs
    }
    for owner in np.unique(owners):
        part, slots = parts[owner], np.flatnonzero(owners == owner)
        rows = order[slots] - (ends[owner] - part.rows)
        arrays = part.load()
        for spec in specs:
            stored = arrays[spec.name].reshape(part.shapes[spec.name])
            label = input_label(part.origin, spec, specs)
            gathered[spec.name][slots] = check_values(stored[rows], spec, label, rows)
    return gathered


def _check_one_shape(parts: Sequence[Part]) -> None:
    first = parts[0]
    for part in parts[1:]:
        for name, shape in part.shapes.items():
            expected = first.shapes[name][1:]
            if shape[1:] != expected:
                raise DataError(
                    f"the samples for input {name!r} differ in shape: {shape_text(expected)} in {first.origin}, "
                    f"{shape_text(shape[1:])} in {part.origin}: bring them to one shape"
                )
