"""Samples in one or many files of arrays: which array feeds which input, and the samples drawn from all of them.

A *part* is one file (or one ``test_data_set_*`` folder) with some samples for every input, all of one shape; those of
another part may have another. The headers of all parts are checked first; then only the parts that hold drawn samples
are loaded.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.conform import Header, check_dtype, check_values
from onnx_lowrank.data.messages import array_label, input_label, shape_text, some
from onnx_lowrank.data.npy_files import read_array, read_headers
from onnx_lowrank.data.readings import Reading, match_rows, readings
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.progress import Warn

LABEL_KEYS = ("labels", "label", "y")
"""Names of arrays that hold class numbers and feed no input."""

MASK_KEYS = ("masks", "mask")
"""Names of arrays that hold the class of every pixel, and feed no input where another array could."""

_COMMON_KEYS = ("input", "data", "images", "x")

Samples: TypeAlias = NDArray[Any] | list[NDArray[Any]]
"""Samples of one input: an array [n, ...], or a list of n arrays that differ in shape."""


@dataclass(frozen=True)
class Part:
    """Some samples for every input.

    Attributes
    ----------
    origin
        Where the part comes from, for messages.
    readings
        How the array of each input is read; those of a single sample serve all samples of the part.
    load
        Reads the arrays, by input, as they are stored.
    """

    origin: str
    readings: dict[str, Reading]
    load: Callable[[], Feeds]

    @property
    def rows(self) -> int:
        """The number of samples."""
        return rows_of(self.readings)


def rows_of(ways: Mapping[str, Reading]) -> int:
    """Return the number of samples in arrays of which some may serve all samples."""
    counts = {way.rows for way in ways.values()}
    return max(counts) if 0 not in counts else 0


def check_headers(
    headers: Mapping[str, Header], specs: tuple[TensorSpec, ...], origin: str, warn: Warn
) -> dict[str, Reading]:
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
    dict[str, Reading]
        How the array of each input is read, by the input's name.

    Raises
    ------
    DataError
        If an array does not fit its input, or the inputs have different numbers of samples.
    """
    labels = {spec.name: array_label(origin, headers[spec.name].key) for spec in specs}
    for spec in specs:
        dtype = headers[spec.name].dtype
        if not dtype.hasobject:  # Python objects are refused where they are read, for a reason of their own
            check_dtype(dtype, spec, labels[spec.name], warn)
    return match_rows({spec.name: headers[spec.name].shape for spec in specs}, specs, labels, origin)


def file_parts(path: Path, specs: tuple[TensorSpec, ...], warn: Warn) -> list[Part]:
    """Open a ``.npy`` or ``.npz`` file as one part, or an unnamed list of samples for one input as a part for each.

    Raises
    ------
    DataError
        If the file cannot be read, or its arrays do not fit the inputs.
    """
    stored = read_headers(path)
    if len(specs) != 1 or len(stored) == 1 or not all(_is_listed(header, specs[0]) for header in stored.values()):
        return [file_part(path, specs, warn)]
    name = specs[0].name

    def part(header: Header) -> Part:
        origin = array_label(path, header.key)
        ways = check_headers({name: replace(header, key="")}, specs, origin, warn)
        return Part(origin, ways, lambda: {name: read_array(path, header.key)})

    return [part(header) for header in stored.values()]


def _is_listed(header: Header, spec: TensorSpec) -> bool:
    """Whether an array has one of the names that numpy.savez gives to those of a list, and feeds an input."""
    named_by_numpy = re.fullmatch(r"arr_\d+", header.key) is not None
    return named_by_numpy and not header.dtype.hasobject and any(readings(header.shape, spec))


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
    others = {key: header for key, header in others.items() if key not in MASK_KEYS} or others
    candidates: Sequence[Header] = ()
    if len(specs) == 1:
        rank = None if specs[0].shape is None else len(specs[0].shape) + (specs[0].axis is None)
        candidates = [header for key, header in others.items() if key.lower() in _COMMON_KEYS][:1]
        candidates = candidates or [header for header in others.values() if rank in (None, len(header.shape))]
        if not candidates and "" in others:  # the one array of a .npy, perhaps a single sample
            candidates = [others[""]]
        candidates = candidates or [header for header in others.values() if any(readings(header.shape, specs[0]))]
    if len(candidates) != 1:
        arrays = some([f"{header.key or 'one array'} ({shape_text(header.shape)})" for header in stored.values()], 8)
        names = ", ".join(spec.name for spec in specs)
        raise DataError(
            f"{origin} holds {arrays or 'no arrays'}, but the model has the inputs {names}: use those names"
        )
    return {specs[0].name: candidates[0]}


def gather(parts: Sequence[Part], order: NDArray[np.int64], specs: tuple[TensorSpec, ...]) -> dict[str, Samples]:
    """Load the drawn samples of all parts.

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
    dict[str, Samples]
        For each input the samples in its dtype: an array [n, ...], or a list of arrays where they differ in shape.

    Raises
    ------
    DataError
        If a sample holds NaN, infinity or values out of range.
    """
    ends = np.cumsum([part.rows for part in parts])
    owners = np.searchsorted(ends, order, side="right")
    gathered: dict[str, Samples] = {spec.name: _room(parts, owners, spec) for spec in specs} if len(parts) > 1 else {}
    for owner in np.unique(owners):
        part, slots = parts[owner], np.flatnonzero(owners == owner)
        rows = order[slots] - (ends[owner] - part.rows)
        arrays = part.load()
        for spec in specs:
            stored, label = part.readings[spec.name].samples(arrays[spec.name]), input_label(part.origin, spec, specs)
            into = gathered.get(spec.name)
            if len(stored) < part.rows:
                shared = check_values(stored, spec, label, np.zeros(1, np.int64))
                checked = np.broadcast_to(shared, (len(rows), *shared.shape[1:]))
            else:
                checked = check_values(stored[rows], spec, label, rows)
            if len(parts) == 1:
                gathered[spec.name] = checked
            elif isinstance(into, np.ndarray):
                into[slots] = checked
            elif into is not None:
                for slot, sample in zip(slots, checked, strict=True):
                    into[slot] = sample
    return gathered


def _room(parts: Sequence[Part], owners: NDArray[np.int64], spec: TensorSpec) -> Samples:
    """Return room for the samples of an input: an array where all have one shape, and a list elsewhere."""
    shapes = {parts[owner].readings[spec.name].sample for owner in np.unique(owners)}
    if len(shapes) == 1:
        return np.empty((len(owners), *shapes.pop()), spec.dtype)
    return [np.empty(0, spec.dtype)] * len(owners)
