"""The ways to see samples in a stored array, whatever the dimension along which the model takes them.

For an input [2, N, 64], of which N counts the samples, the arrays of 60 samples may be stored as

    [2, 60, 64]       as the model takes them
    [60, 2, 64]       the samples in front
    [60, 2, 1, 64]    what is fed in 60 runs of one sample
    [2, 64]           one sample, or one array for all samples

and for an input that takes one sample without a dimension for it, such as an image [3, H, W], as

    [60, 3, H, W]     the samples in front
    [3, H, W]         one sample, or one array for all samples

Which of them it is follows from the sizes, and where these leave it open, from the numbers of samples of the other
inputs. An input of a single number takes one for all samples, or one for each, in an array of any shape.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.messages import shape_text
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """One way to see samples in an array.

    Attributes
    ----------
    rows
        The number of samples; an array of one serves all samples of the other inputs as well.
    sample
        The shape of one sample, without the dimension that counts them.
    stored
        The shape that the array gets first.
    axis
        The dimension of that shape that counts the samples.
    inner
        A further dimension that counts them, where several runs of several samples are stored; None elsewhere.
    """

    rows: int
    sample: Shape
    stored: Shape
    axis: int
    inner: int | None = None

    def samples(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the samples of an array, [rows, *sample]; a view, where NumPy can make one."""
        array = array.reshape(self.stored)
        if self.inner is None:
            return np.moveaxis(array, self.axis, 0)
        return np.moveaxis(array, (self.axis, self.inner), (0, 1)).reshape(self.rows, *self.sample)


def readings(shape: Shape, spec: TensorSpec) -> Iterator[Reading]:
    """Yield the ways in which an array of a shape feeds an input, the likeliest first; none where it does not fit."""
    declared, axis = spec.shape, spec.axis if spec.shape != () else None
    if declared is None:
        if shape:
            yield Reading(shape[0], shape[1:], shape, 0)
        return
    sample = declared if axis is None else (*declared[:axis], *declared[axis + 1 :])
    if axis is not None and len(shape) == len(declared):
        rest = (*shape[:axis], *shape[axis + 1 :])
        if _fits(rest, sample):
            yield Reading(shape[axis], rest, shape, axis)
    if _fits(shape, sample):
        yield Reading(1, shape, (1, *shape), 0)
    if axis != 0 and shape and _fits(shape[1:], sample):
        yield Reading(shape[0], shape[1:], shape, 0)
    if axis is not None and len(shape) == len(declared) + 1:
        run = shape[axis + 1]
        rest = (*shape[1 : axis + 1], *shape[axis + 2 :])
        if run in (1, declared[axis]) and _fits(rest, sample):
            yield Reading(shape[0] * run, rest, shape, 0, axis + 1)
    if axis is None and all(side == 1 for side in declared):
        rows = math.prod(shape)
        if rows == 1 or shape[:1] == (rows,):
            one = (1,) * len(declared)
            yield Reading(rows, one, (rows, *one), 0)


def match_rows(
    shapes: Mapping[str, Shape], specs: Sequence[TensorSpec], labels: Mapping[str, str], origin: str
) -> dict[str, Reading]:
    """Decide how the arrays of all inputs are read, so that they hold as many samples.

    Parameters
    ----------
    shapes
        The shapes of the arrays, by input.
    specs
        The inputs.
    labels
        The names of the arrays in messages, by input.
    origin
        Where they come from, for messages.

    Returns
    -------
    dict[str, Reading]
        The readings by input. Each has the same number of samples, or a single one that serves all.

    Raises
    ------
    DataError
        If an array does not fit its input, or the arrays hold different numbers of samples.
    """
    ways = {spec.name: list(readings(shapes[spec.name], spec)) for spec in specs}
    for spec in specs:
        if not ways[spec.name]:
            raise _misfit(labels[spec.name], shapes[spec.name], spec)
    counts = dict.fromkeys(way.rows for found in ways.values() for way in found)
    for rows in counts:
        chosen = {name: with_rows(found, rows) for name, found in ways.items()}
        if all(chosen.values()):
            return {name: way for name, way in chosen.items() if way}
    found = ", ".join(f"{name}: {options[0].rows}" for name, options in ways.items())
    raise DataError(
        f"{origin} has different numbers of samples for the inputs ({found}): give as many for each, or one for all"
    )


def with_rows(ways: Sequence[Reading], rows: int) -> Reading | None:
    """Return the likeliest reading with a number of samples; else one of a single sample, which serves all."""
    return next((way for wanted in (rows, 1) for way in ways if way.rows == wanted), None)


def _fits(shape: Shape, declared: Sequence[int | str | None]) -> bool:
    return len(shape) == len(declared) and all(
        not isinstance(side, int) or size == side for size, side in zip(shape, declared, strict=True)
    )


def _misfit(label: str, shape: Shape, spec: TensorSpec) -> DataError:
    declared = spec.shape or (() if spec.shape == () else ("N",))
    axis = spec.axis if declared else None
    if axis is None:
        wanted = f"{shape_text(declared)}, or {shape_text(('N', *declared))}"
    else:
        wanted = shape_text((*declared[:axis], "N", *declared[axis + 1 :]))
    return DataError(
        f"{label} has shape {shape_text(shape)}, but input {spec.name!r} takes {wanted} (N samples): "
        "reshape or transpose the data"
    )
