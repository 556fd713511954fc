"""Inputs made up for timing a model, where its outputs do not matter."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arranged import unread
from onnx_lowrank.data.messages import shape_text
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

Array = NDArray[Any]


def batch_of(specs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size that a model demands, or None if the dimension that counts samples is open in an input.

    A model without such a dimension takes one sample at a time.
    """
    counting = [spec for spec in specs if spec.read and spec.shape != () and spec.axis is not None]
    if not counting and any(spec.read for spec in specs):
        return 1
    sizes = [spec.shape[spec.axis] for spec in counting if spec.shape and spec.axis is not None]
    return None if not all(isinstance(size, int) for size in sizes) else next((int(s) for s in sizes if s), None)


def made_input(specs: Sequence[TensorSpec], batch: int, seed: int, model: str) -> Feeds:
    """Make up one batch: standard normal noise, and zeros and ones for inputs of integers or booleans.

    Parameters
    ----------
    specs
        The model's inputs. Every dimension is a number, counts the samples, or bears the name of one that does.
    batch
        The size of a dimension that counts samples and is open, and of those that bear its name.
    seed
        The seed of the values, which depend on nothing else but the shapes.
    model
        The model's name in messages.

    Returns
    -------
    Feeds
        An array for each input, in its shape and dtype.

    Raises
    ------
    DataError
        If a shape is not known, or an input does not take numbers.
    """
    rng = np.random.default_rng(seed)
    counting = {spec.shape[spec.axis] for spec in specs if spec.shape and spec.axis is not None}
    named = {side: batch for side in counting if isinstance(side, str)}
    return {
        spec.name: _values(rng, _shape(spec, batch, named, model), spec, model) if spec.read else unread(spec, batch)
        for spec in specs
    }


def _shape(spec: TensorSpec, batch: int, named: Mapping[str, int], model: str) -> tuple[int, ...]:
    if spec.shape is None:
        raise DataError(f"{model} does not state the shape of its input {spec.name!r}: give --input-shapes or --data")
    sides = [
        side if isinstance(side, int) else batch if axis == spec.axis else named.get(side or "")
        for axis, side in enumerate(spec.shape)
    ]
    if None in sides:
        raise DataError(
            f"{model} takes {spec.name!r} of any size ({shape_text(spec.shape)}): "
            f"give --input-shapes {spec.name}:… or --data"
        )
    return tuple(side for side in sides if side is not None)


def _values(rng: np.random.Generator, shape: tuple[int, ...], spec: TensorSpec, model: str) -> Array:
    if spec.dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if spec.dtype.kind in "fVc":  # "V" covers bfloat16 and the 8-bit floats, which NumPy does not know
        return rng.standard_normal(shape).astype(spec.dtype)
    raise DataError(f"input {spec.name!r} of {model} does not take numbers: no data can be made up for it")
