"""Samples that lie in arrays, in memory or memory-mapped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.conform import check_values, headers_of
from onnx_lowrank.data.draw import Draw
from onnx_lowrank.data.messages import counted, input_label
from onnx_lowrank.data.parts import check_headers, match_keys
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
        An array for each input, shape [m, ...].
    description
        Describes the samples in the report.
    order
        The rows that are the samples, in their order, shape [n]; None: all rows, in the order of the arrays.
    dtypes
        The dtypes to convert to, by input; an array of an input that is missing here keeps its own.
    synthetic
        Whether the samples are made up.
    """

    arrays: Mapping[str, NDArray[Any]]
    description: str = "arrays"
    order: NDArray[np.int64] | None = None
    dtypes: Mapping[str, np.dtype[Any]] = field(default_factory=dict)
    synthetic: bool = False

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(next(iter(self.arrays.values()))) if self.order is None else len(self.order)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch; its arrays are contiguous copies."""
        rows = np.asarray(indices, np.int64)
        if self.order is not None:
            rows = self.order[rows]
        return {
            name: np.ascontiguousarray(array[rows], self.dtypes.get(name, array.dtype))
            for name, array in self.arrays.items()
        }


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
    shapes = check_headers(headers, specs, origin, draw.warn)
    available = shapes[specs[0].name][0]
    if not available:
        raise DataError(f"{origin} holds no samples: its first dimension is 0")
    order = draw.indices(available)
    batches = {spec.name: arrays[headers[spec.name].key].reshape(shapes[spec.name]) for spec in specs}
    for spec in specs:
        for start in range(0, len(order), _CHECKED_AT_ONCE):
            rows = order[start : start + _CHECKED_AT_ONCE]
            check_values(batches[spec.name][rows], spec, input_label(origin, spec, specs), rows)
    return ArraySource(
        arrays=batches,
        description=f"{counted(len(order), available, 'sample')} in {title or origin}",
        order=order,
        dtypes={spec.name: spec.dtype for spec in specs},
    )
