"""Samples that lie in one or many files of arrays: which array feeds which input, and the choice over all of them.

A *part* is one file (or one ``test_data_set_*`` folder) with some samples for every input. The headers of all parts
are judged first; then only the parts that hold chosen samples are loaded.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.conform import batch_shape, check_dtype, check_values, times
from onnx_lowrank.data.npy_files import Header, headers, read
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

LABEL_KEYS = ("labels", "label", "y")
_COMMON_KEYS = ("input", "data", "images", "x")


@dataclass(frozen=True)
class Part:
    """Some samples for every input.

    Attributes
    ----------
    where
        What to call the part in messages.
    shapes
        For each input its array's shape, batch axis first; all agree on the first.
    load
        Reads the arrays, by input, as they are stored.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]
    load: Callable[[], Feeds]

    @property
    def rows(self) -> int:
        """The number of samples."""
        return next(iter(self.shapes.values()))[0]


def make_part(
    where: str,
    found: Mapping[str, Header],
    load: Callable[[], Feeds],
    specs: tuple[TensorSpec, ...],
    warn: Callable[[str], None],
) -> Part:
    """Judge the arrays of one part by their headers; ``found`` is by input name.

    Raises
    ------
    DataError
        If an array does not fit its input, or the inputs' numbers of samples differ.
    """
    shapes = {}
    for spec in specs:
        header = found[spec.name]
        name = f"{where}, array {header.key!r}" if header.key else where
        if not header.dtype.hasobject:  # those are refused with their own reason when they are read
            check_dtype(header.dtype, spec, name, warn)
        shapes[spec.name] = batch_shape(header.shape, spec, name)
    rows = {name: shape[0] for name, shape in shapes.items()}
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name}: {n}" for name, n in rows.items())
        raise DataError(f"{where} has different numbers of samples for the inputs ({told}): give as many for each")
    return Part(where, shapes, load)


def file_part(path: Path, specs: tuple[TensorSpec, ...], warn: Callable[[str], None]) -> Part:
    """Take a ``.npy`` or ``.npz`` file as a part.

    Raises
    ------
    DataError
        If the file cannot be read, or its arrays do not fit the inputs.
    """
    found = headers(path)
    for header in found.values():
        if header.dtype.hasobject and header.key not in LABEL_KEYS:
            read(path, header.key)  # says why it is refused
    chosen = match_keys(found, specs, str(path))

    def load() -> Feeds:
        return {name: read(path, header.key) for name, header in chosen.items()}

    return make_part(str(path), chosen, load, specs, warn)


def match_keys(found: Mapping[str, Header], specs: tuple[TensorSpec, ...], where: str) -> dict[str, Header]:
    """Decide which stored array feeds which input.

    Arrays named like the inputs come first; a model with one input also takes "input", "data", "images" or "x", or
    the only array that has the input's rank. Labels are left alone.

    Raises
    ------
    DataError
        If an input finds no array, or the only input finds several.
    """
    if all(spec.name in found for spec in specs):
        return {spec.name: found[spec.name] for spec in specs}
    others = {key: header for key, header in found.items() if key not in LABEL_KEYS}
    candidates: Sequence[Header] = ()
    if len(specs) == 1:
        rank = None if specs[0].shape is None else len(specs[0].shape)
        candidates = [header for key, header in others.items() if key.lower() in _COMMON_KEYS][:1]
        candidates = candidates or [header for header in others.values() if rank in (None, len(header.shape))]
        if not candidates and "" in others:  # the one array of a .npy, perhaps a single sample
            candidates = [others[""]]
        candidates = candidates or [header for header in others.values() if len(header.shape) + 1 == rank]
    if len(candidates) != 1:
        there = ", ".join(f"{header.key or 'one array'} ({times(header.shape)})" for header in found.values())
        wanted = ", ".join(spec.name for spec in specs)
        raise DataError(f"{where} holds {there or 'no arrays'}, but the model has the inputs {wanted}: use those names")
    return {specs[0].name: candidates[0]}


def gather(parts: Sequence[Part], chosen: NDArray[np.int64], specs: tuple[TensorSpec, ...]) -> Feeds:
    """Load the chosen samples of all parts into one array for each input.

    Parameters
    ----------
    parts
        The parts; their samples are numbered through.
    chosen
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
        If the parts' samples differ in shape, or hold NaN, infinity or values out of range.
    """
    for part in parts[1:]:
        for name, shape in part.shapes.items():
            if shape[1:] != parts[0].shapes[name][1:]:
                raise DataError(
                    f"samples for input {name!r} differ in shape: {times(parts[0].shapes[name][1:])} in "
                    f"{parts[0].where}, {times(shape[1:])} in {part.where}: bring them to one shape"
                )
    ends = np.cumsum([part.rows for part in parts])
    owner = np.searchsorted(ends, chosen, side="right")
    gathered: dict[str, NDArray[Any]] = {
        spec.name: np.empty((len(chosen), *parts[0].shapes[spec.name][1:]), spec.dtype) for spec in specs
    }
    for number in np.unique(owner):
        part, slots = parts[number], np.flatnonzero(owner == number)
        rows = chosen[slots] - (ends[number] - part.rows)
        arrays = part.load()
        for spec in specs:
            stored = arrays[spec.name].reshape(part.shapes[spec.name])
            name = part.where if len(specs) == 1 else f"{part.where}, input {spec.name!r}"
            gathered[spec.name][slots] = check_values(stored[rows], spec, name, rows)
    return gathered
