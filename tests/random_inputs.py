"""Inputs of random models: samples on any axis or on none, states, numbers that all samples share, and unread ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from random_drafts import Draft, Tensor

Array = NDArray[Any]

SAMPLES = 6

SHARED = "shared"
"""The place of an input that takes the same value for all samples."""


@dataclass(frozen=True)
class Input:
    """An input of a random model.

    Attributes
    ----------
    name
        Its name.
    sample
        The shape of one sample, without an axis for the samples.
    axis
        The axis on which the model takes the samples; None where it takes one sample at a time, without an axis for
        it, and ``SHARED`` where all samples share one value.
    element_type
        The type of its elements, for ONNX.
    values
        What the calibration data hold: [n, *sample], or [*sample] where it is shared; None where nobody reads the
        input and the data say nothing of it.
    """

    name: str
    sample: tuple[int, ...]
    axis: int | str | None
    element_type: int
    values: Array | None = field(repr=False)

    def shape(self, batch: int | str | None, sizes: Sequence[int | str]) -> list[int | str | None]:
        """Return the declared shape, with the sizes of one sample that are declared in place of its own."""
        shape: list[int | str | None] = list(sizes)
        if isinstance(self.axis, int):
            shape.insert(self.axis, batch)
        return shape

    def feed(self, rows: Array) -> Array:
        """Return what the model takes for samples [n, *sample]: the first one alone where it takes one at a time."""
        if isinstance(self.axis, int):
            return np.ascontiguousarray(np.moveaxis(rows, 0, self.axis))
        return np.ascontiguousarray(rows[0])


def image(draft: Draft, name: str, channels: int, sizes: tuple[int, ...], axis: int | None) -> tuple[Input, Tensor]:
    """Add an input of images, and the nodes that bring its samples to the first axis."""
    n = len(sizes)
    values = draft.rng.normal(size=(SAMPLES, channels, *sizes)).astype(draft.dtype)
    taken = Input(name, (channels, *sizes), axis, draft.element_type, values)
    if axis == 1:
        name = draft.add("Transpose", [name], perm=[1, 0, *range(2, n + 2)])
    elif axis is None:
        name = draft.add("Reshape", [name, draft.store([1, channels, *sizes], np.int64)])
    return taken, Tensor(name, channels, sizes)


def state(draft: Draft, x: Tensor, batched: bool) -> tuple[Input, Tensor]:
    """Add a state [2, N, channels], as recurrent layers have it, of which the first part is added to x."""
    c, name = x.channels, draft.name("state")
    values = draft.rng.normal(size=(SAMPLES, 2, c)).astype(draft.dtype)
    first = draft.add("Gather", [name, draft.store(0, np.int64)], axis=0)
    spread = draft.add("Reshape", [first, draft.store([-1, c, *[1] * len(x.sizes)], np.int64)])
    taken = Input(name, (2, c), 1 if batched else None, draft.element_type, values)
    return taken, Tensor(draft.add("Add", [x.name, spread]), c, x.sizes)


def number(draft: Draft, x: Tensor) -> tuple[Input, Tensor]:
    """Add a number that multiplies x: a whole one without dimensions, or a flag [1]."""
    name = draft.name("number")
    if draft.pick(False, True):
        taken = Input(name, (), SHARED, TensorProto.INT64, np.array(2, np.int64))
        factor = draft.add("Cast", [name], to=draft.element_type)
    else:
        taken = Input(name, (1,), SHARED, draft.element_type, np.array([1.5], draft.dtype))
        factor = name
    return taken, Tensor(draft.add("Mul", [x.name, factor]), x.channels, x.sizes)


def unread(draft: Draft) -> Input:
    """Add an input that no node reads."""
    return Input(draft.name("unread"), (2, 3), draft.pick(0, SHARED), draft.element_type, None)


def add_inputs(draft: Draft, channels: int, sizes: tuple[int, ...]) -> tuple[list[Input], list[Tensor]]:
    """Add the inputs of a model; the tensors hold the samples on their first axis."""
    axis = draft.pick(*[0] * 10, 1, None)
    names = draft.pick(("x",), ("x",), ("x", "left"))
    pairs = [image(draft, name, channels, sizes, axis) for name in names]
    inputs, tensors = [taken for taken, _ in pairs], [tensor for _, tensor in pairs]
    more = draft.pick(*["none"] * 5, "state", "number", "unread")
    if more == "unread":
        inputs.append(unread(draft))
    elif more != "none":
        adding = state(draft, tensors[0], batched=axis is not None) if more == "state" else number(draft, tensors[0])
        inputs.append(adding[0])
        tensors[0] = adding[1]
    return inputs, tensors


def calibration(inputs: Sequence[Input]) -> dict[str, Array]:
    """Return the calibration data."""
    return {one.name: one.values for one in inputs if one.values is not None}


def feeds(inputs: Sequence[Input], rows: int, rng: np.random.Generator) -> Mapping[str, Array]:
    """Return new samples for all inputs, as many as given, or one where the model takes one at a time."""
    fed = {}
    for one in inputs:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(one.element_type))
        if one.axis == SHARED:
            fed[one.name] = np.zeros(one.sample, dtype) if one.values is None else one.values
        else:
            fed[one.name] = one.feed(rng.normal(size=(rows, *one.sample)).astype(dtype))
    return fed


def declared(inputs: Sequence[Input], batch: int | str | None, *, free_sizes: bool) -> list[onnx.ValueInfoProto]:
    """Return what the model states of its inputs; sizes of images may be left open."""
    infos = []
    for one in inputs:
        spatial = range(1, len(one.sample)) if one.name in ("x", "left") and free_sizes else ()
        sizes = [f"side{i}" if i in spatial else size for i, size in enumerate(one.sample)]
        infos.append(helper.make_tensor_value_info(one.name, one.element_type, one.shape(batch, sizes)))
    return infos
