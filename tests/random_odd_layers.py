"""Parts of random models that draw random numbers, or keep something that is no array of NumPy's own."""

from collections.abc import Callable
from dataclasses import replace

from onnx import TensorProto
from random_drafts import Draft, Tensor

SEQUENCES_FROM, TRAINING_FROM, BFLOAT16_FROM, FLOAT8_FROM, INT4_FROM = 11, 12, 13, 19, 21
"""The opsets from which on there are sequences, Dropouts that train, and the short types."""

Conv = Callable[[Draft, Tensor], Tensor]


def noise(draft: Draft, x: Tensor) -> Tensor:
    """Add a random node and what it changes; ONNX Runtime draws no numbers in half precision."""
    if draft.half:
        return x
    kinds = ["RandomNormalLike", "RandomUniformLike", "RandomNormal", *["Dropout"] * (draft.opset >= TRAINING_FROM)]
    kind = draft.pick(*kinds)
    seed = draft.pick({}, {"seed": 2 if kind == "Dropout" else 2.0})
    if kind == "Dropout":
        flags = [draft.store(0.25, draft.dtype), draft.store(True, bool)]
        return replace(x, name=draft.add(kind, [x.name, *flags], **seed))
    inputs, shape = ([], {"shape": [1, x.channels, *x.sizes]}) if kind == "RandomNormal" else ([x.name], {})
    return replace(x, name=draft.add("Add", [x.name, draft.add(kind, inputs, None, **shape, **seed)]))


def in_a_sequence(draft: Draft, x: Tensor, conv: Conv) -> Tensor:
    """Add a convolution across which a sequence is live."""
    if draft.opset < SEQUENCES_FROM:
        return x
    kept, y = draft.add("SequenceConstruct", [x.name, x.name]), conv(draft, x)
    return _moved(draft, y, draft.add("SequenceAt", [kept, draft.store(1, "int64")]))


def in_a_short_type(draft: Draft, x: Tensor, conv: Conv) -> Tensor:
    """Add a convolution across which a tensor of a short type is live."""
    types = [TensorProto.BFLOAT16] * (draft.opset >= BFLOAT16_FROM)
    if draft.opset >= FLOAT8_FROM and draft.ir_version >= 10:
        types += [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2]
    types += [TensorProto.INT4] * (draft.opset >= INT4_FROM and draft.ir_version >= 10)
    if not types:
        return x
    kept, y = draft.add("Cast", [x.name], to=draft.pick(*types)), conv(draft, x)
    return _moved(draft, y, draft.add("Cast", [kept], to=draft.element_type))


def _moved(draft: Draft, y: Tensor, other: str) -> Tensor:
    """Add the mean of another tensor to a tensor."""
    return replace(y, name=draft.add("Add", [y.name, draft.add("ReduceMean", [other], keepdims=0)]))
