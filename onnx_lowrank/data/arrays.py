"""Samples that lie in arrays, in memory or memory-mapped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.choose import choose, counted
from onnx_lowrank.data.conform import check_values
from onnx_lowrank.data.npy_files import Header
from onnx_lowrank.data.parts import make_part, match_keys
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

_CHECK_ROWS = 16
# Rows converted at once while the values are checked: a memory-mapped file is never in memory as a whole.


@dataclass(frozen=True)
class ArraySource:
    """Arrays as a :class:`~onnx_lowrank.calibration.source.Source`.

    Attributes
    ----------
    arrays
        For each input an array, shape [m, ...].
    description
        For the report.
    order
        Which rows are the samples, in which order, shape [n]; None: all, as they lie.
    dtypes
        The dtypes to convert to; arrays of inputs not named here keep theirs.
    """

    arrays: Mapping[str, NDArray[Any]]
    description: str = "arrays"
    order: NDArray[np.int64] | None = None
    dtypes: Mapping[str, np.dtype[Any]] = field(default_factory=dict)
    synthetic: bool = False

    def __len__(self) -> int:
        """Count the samples."""
        return len(next(iter(self.arrays.values()))) if self.order is None else len(self.order)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """One batch; the arrays are contiguous copies."""
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
    *,
    where: str,
    title: str | None = None,
    count: int | None,
    seed: int,
    warn: Callable[[str], None],
) -> ArraySource:
    """Check arrays against the inputs and choose samples, without copying them.

    Parameters
    ----------
    arrays
        Arrays by input name (or by any name :func:`~onnx_lowrank.calibration.parts.match_keys` knows).
    specs
        The model's inputs.
    where
        What to call the arrays in messages.
    title
        What to call them in the description; None: the same.
    count, seed
        How many to choose, and how; see :func:`~onnx_lowrank.calibration.choice.choose`.
    warn
        Told of conversions worth knowing.

    Returns
    -------
    ArraySource
        The chosen samples.

    Raises
    ------
    DataError
        If the arrays do not fit the inputs, are empty, or hold NaN, infinity or values out of range.
    """
    found = match_keys({key: Header(key, array.shape, array.dtype) for key, array in arrays.items()}, specs, where)
    part = make_part(where, found, dict, specs, warn)
    if part.rows == 0:
        raise DataError(f"{where} holds no samples: its first dimension is 0")
    order = choose(part.rows, count, seed)
    fitting = {spec.name: arrays[found[spec.name].key].reshape(part.shapes[spec.name]) for spec in specs}
    for spec in specs:
        name = where if len(specs) == 1 else f"{where}, input {spec.name!r}"
        for start in range(0, len(order), _CHECK_ROWS):
            rows = order[start : start + _CHECK_ROWS]
            check_values(fitting[spec.name][rows], spec, name, rows)
    return ArraySource(
        arrays=fitting,
        description=counted(len(order), part.rows, f"samples in {title or where}"),
        order=order,
        dtypes={spec.name: spec.dtype for spec in specs},
    )
