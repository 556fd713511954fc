"""Inputs made up to run a model on a stopwatch, where what it answers does not matter."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

Array = NDArray[Any]


def batch_of(specs: Sequence[TensorSpec]) -> int | None:
    """The batch that a model demands; None where the first dimension of an input is open."""
    sizes = [spec.shape[0] for spec in specs if spec.shape]
    return None if not all(isinstance(size, int) for size in sizes) else next((int(s) for s in sizes if s), None)


def made_input(specs: Sequence[TensorSpec], batch: int, seed: int, model: str) -> Feeds:
    """One batch: normal noise, and zeros and ones where whole numbers or truths are taken.

    Parameters
    ----------
    specs
        The model's inputs. Every dimension but the first is a number; those that bear the first one's name follow it.
    batch
        The size of a first dimension that is open.
    seed
        Of the values, which depend on nothing else but the shapes.
    model
        Named in errors.

    Raises
    ------
    DataError
        Where a shape is not known, or the input is none of numbers.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _values(rng, _shape(spec, batch, model), spec, model) for spec in specs}


def _shape(spec: TensorSpec, batch: int, model: str) -> tuple[int, ...]:
    if spec.shape is None:
        raise DataError(f"{model} does not say the shape of its input {spec.name!r}: give --input-shapes or --data")
    follows = {spec.shape[0]} if spec.shape and isinstance(spec.shape[0], str) else set()
    sides = [
        side if isinstance(side, int) else batch if i == 0 or side in follows else None
        for i, side in enumerate(spec.shape)
    ]
    if None in sides:
        told = "x".join("?" if side is None else str(side) for side in spec.shape)
        raise DataError(
            f"{model} takes {spec.name!r} of any size ({told}): give --input-shapes {spec.name}:… or --data"
        )
    return tuple(side for side in sides if side is not None)


def _values(rng: np.random.Generator, shape: tuple[int, ...], spec: TensorSpec, model: str) -> Array:
    kind = spec.dtype.kind
    if kind in "biu":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if kind in "fVc":  # V: bfloat16 and the like, which NumPy does not know
        return rng.standard_normal(shape).astype(spec.dtype)
    raise DataError(f"the input {spec.name!r} of {model} is no tensor of numbers: nothing can be made up for it")
