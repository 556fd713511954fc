"""Layers of random models whose values are no NumPy arrays: sequences, and numbers of low precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import TensorProto
from random_drafts import Draft, Tensor

PRECISIONS = {
    "BFLOAT16": (13, 4),
    "FLOAT8E4M3FN": (19, 9),
    "FLOAT8E5M2": (19, 9),
    "INT4": (21, 10),
    "FLOAT16": (7, 3),
    "INT8": (7, 3),
}
"""Types of elements with the opset and the IR version from which a Cast makes them."""

Layers = Callable[[Draft, Tensor], Tensor]
"""Adds what stands between the making of a value and its reading."""


def sequence(draft: Draft, x: Tensor, between: Layers) -> Tensor:
    """Split a tensor into a sequence of its channels, of which one is joined again some layers later."""
    if draft.opset < 11:
        return between(draft, x)
    parts = draft.add("SplitToSequence", [x.name, draft.store(1, np.int64)], axis=1)
    y = between(draft, x)
    part = draft.add("SequenceAt", [parts, draft.store(draft.pick(0, -1), np.int64)])
    if y.sizes != x.sizes:
        part = draft.add("GlobalAveragePool", [part])
        return Tensor(draft.add("Add", [y.name, part]), y.channels, y.sizes)
    return Tensor(draft.add("Concat", [y.name, part], axis=1), y.channels + 1, y.sizes)


def low_precision(draft: Draft, x: Tensor, between: Layers) -> Tensor:
    """Cast a tensor to another type, and read it some layers later."""
    names = [name for name, (opset, ir) in PRECISIONS.items() if opset <= draft.opset and ir <= draft.ir_version]
    cast = draft.add("Cast", [x.name], to=getattr(TensorProto, draft.pick(*names)))
    y = between(draft, x)
    back = draft.add("GlobalAveragePool", [draft.add("Cast", [cast], to=draft.element_type)])
    axes: dict[str, Any] = {} if draft.opset >= 18 else {"axes": [1]}
    mean = draft.add("ReduceMean", [back] if axes else [back, draft.store([1], np.int64)], keepdims=1, **axes)
    return Tensor(draft.add("Add", [y.name, mean]), y.channels, y.sizes)
