"""Inputs made up for timing a model, where its outputs do not matter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.messages import shape_text
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

Array = NDArray[Any]


def batch_of(specs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size that a model demands, or None if the first dimension of an input is open."""
    sizes = [spec.shape[0] for spec in specs if spec.shape]
    return None if not all(isinstance(size, int) for size in sizes) else next((int(s) for s in sizes if s), None)


def made_input(specs: Sequence[TensorSpec], batch: int, seed: int, model: str) -> Feeds:
    """Make up one batch: standard normal noise, and zeros and ones for inputs of integers or booleans.

    Parameters
    ----------
    specs
        The model's inputs. Every dimension after the first is a number or bears the name of the first.
    batch
        The size of a first dimension that is open, and of those that bear its name.
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
    return {spec.name: _values(rng, _shape(spec, batch, model), spec, model) for spec in specs}


def _shape(spec: TensorSpec, batch: int, model: str) -> tuple[int, ...]:
    if spec.shape is None:
        raise DataError(f"{model} does not state the shape of its input {spec.name!r}: give --input-shapes or --data")
    symbols = {spec.shape[0]} if spec.shape and isinstance(spec.shape[0], str) else set()
    sides = [
        side if isinstance(side, int) else batch if axis == 0 or side in symbols else None
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
