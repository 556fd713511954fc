"""Samples that lie in arrays, in memory or memory-mapped."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arranged import without_axis
from onnx_lowrank.data.conform import check_values, headers_of
from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.messages import counted, input_label
from onnx_lowrank.data.parts import Samples, check_headers, match_keys, rows_of
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

_CHECKED_AT_ONCE = 16
"""Samples whose values are checked together, so that a memory-mapped file is never in memory as a whole."""


@dataclass(frozen=True)
class ArraySource:
    """Arrays as a :class:`~onnx_lowrank.data.source.Source`.

    Attributes
    ----------
    arrays
        The samples of each input: an array [m, ...], or a list of m arrays where they differ in shape.
    description
        Describes the samples in the report.
    order
        The rows that are the samples, in their order, shape [n]; None: all rows, in the order of the arrays.
    dtypes
        The dtypes to convert to, by input; an array of an input that is missing here keeps its own.
    whole
        The inputs that have no dimension for samples, so that samples of different values cannot share a run.
    synthetic
        Whether the samples are made up.
    """

    arrays: Mapping[str, Samples]
    description: str = "arrays"
    order: NDArray[np.int64] | None = None
    dtypes: Mapping[str, np.dtype[Any]] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()
    synthetic: bool = False

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.arrays.values()))) if self.order is None else len(self.order)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch; its arrays are contiguous copies."""
        rows = self._rows(indices)
        return {
            name: np.ascontiguousarray(_taken(array, rows), self.dtypes.get(name, _dtype(array)))
            for name, array in self.arrays.items()
        }

    @property
    def groups(self) -> NDArray[np.int64]:
        """See :func:`~onnx_lowrank.data.source.groups`."""
        numbers: dict[Hashable, int] = {}
        rows = self._rows(range(len(self)))
        apart = {name: array for name, array in self.arrays.items() if _tells_apart(array, rows, name in self.whole)}

        def group(row: int) -> int:
            samples = {name: array[row] for name, array in apart.items()}
            key = [(value.shape, value.tobytes() if name in self.whole else b"") for name, value in samples.items()]
            return numbers.setdefault(tuple(key), len(numbers))

        return np.array([group(row) for row in rows] if apart else np.zeros(len(rows)), np.int64)

    @property
    def elements(self) -> NDArray[np.int64]:
        """See :func:`~onnx_lowrank.data.source.elements`."""
        rows = self._rows(range(len(self)))
        counts: NDArray[np.int64] = np.zeros(len(rows), np.int64)
        for array in self.arrays.values():
            counts += array[0].size if isinstance(array, np.ndarray) else [array[row].size for row in rows]
        return counts

    def _rows(self, indices: Sequence[int]) -> NDArray[np.int64]:
        rows = np.asarray(indices, np.int64)
        return rows if self.order is None else self.order[rows]


def _taken(array: Samples, rows: NDArray[np.int64]) -> NDArray[Any]:
    return array[rows] if isinstance(array, np.ndarray) else np.stack([array[row] for row in rows])


def _dtype(array: Samples) -> np.dtype[Any]:
    return array.dtype if isinstance(array, np.ndarray) else array[0].dtype


def _tells_apart(array: Samples, rows: NDArray[np.int64], whole: bool) -> bool:
    """Whether the samples of an input may differ in such a way that they cannot share a run."""
    if not isinstance(array, np.ndarray):
        return True
    return whole and array.strides[:1] != (0,) and any(not np.array_equal(array[rows[0]], array[row]) for row in rows)


def open_arrays(
    arrays: Mapping[str, NDArray[Any]],
    specs: tuple[TensorSpec, ...],
    draw: Draw,
    origin: str,
    title: str | None = None,
) -> ArraySource:
    """Check arrays against the inputs and draw samples, without copying them.

    Parameters
    ----------
    arrays
        Arrays by input name, or by any other name that :func:`~onnx_lowrank.data.parts.match_keys` accepts.
    specs
        The model's inputs.
    draw
        How many samples are drawn, and in which order.
    origin
        Where the arrays come from, for messages.
    title
        Where they come from, for the description; None: ``origin``.

    Returns
    -------
    ArraySource
        The drawn samples.

    Raises
    ------
    DataError
        If the arrays do not fit the inputs, are empty, or hold NaN, infinity or values out of range.
    """
    headers = match_keys(headers_of(arrays), specs, origin)
    ways = check_headers(headers, specs, origin, draw.warn)
    available = rows_of(ways)
    if not available:
        raise DataError(f"{origin} holds no samples: its first dimension is 0")
    order = draw.indices(available)
    batches: dict[str, Samples] = {}
    for spec in specs:
        samples, label = ways[spec.name].samples(arrays[headers[spec.name].key]), input_label(origin, spec, specs)
        shared = len(samples) < available
        checked = np.zeros(1, np.int64) if shared else order
        for start in range(0, len(checked), _CHECKED_AT_ONCE):
            rows = checked[start : start + _CHECKED_AT_ONCE]
            check_values(samples[rows], spec, label, rows)
        batches[spec.name] = np.broadcast_to(samples, (available, *samples.shape[1:])) if shared else samples
    return ArraySource(
        arrays=batches,
        description=f"{counted(len(order), available, 'sample')} in {title or origin}",
        order=order,
        dtypes={spec.name: spec.dtype for spec in specs},
        whole=without_axis(specs),
    )
