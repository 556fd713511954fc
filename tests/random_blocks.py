"""Blocks of the networks that people deploy, for random models: each function adds nodes and returns the new tensor."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import random_layers as layers
from random_activations import activation, product
from random_drafts import Draft, Tensor

Block: TypeAlias = Callable[[Draft, Tensor], Tensor]


def conv(draft: Draft, x: Tensor, filters: int, kernel: int = 1, *, stride: int = 1, depthwise: bool = False) -> Tensor:
    """Add a convolution that keeps the size or halves it, rounding up; perhaps with a bias and a normalisation."""
    n, channels = len(x.sizes), 1 if depthwise else x.channels
    inputs = [x.name, draft.store_weight(draft.random(filters, channels, *[kernel] * n))]
    if draft.pick(False, True):
        inputs.append(draft.store_weight(draft.random(filters)))
    group: dict[str, Any] = {"group": x.channels} if depthwise else {}
    y = draft.add("Conv", inputs, pads=[kernel // 2] * (2 * n), strides=[stride] * n, **group)
    new = Tensor(y, filters, tuple(-(-size // stride) for size in x.sizes))
    return layers.norm(draft, new) if draft.sometimes() else new


def activated(draft: Draft, x: Tensor, filters: int, kernel: int = 1, *, stride: int = 1) -> Tensor:
    """Add a convolution and an activation."""
    return activation(draft, conv(draft, x, filters, kernel, stride=stride))


def added(draft: Draft, x: Tensor, y: Tensor) -> Tensor:
    """Add a shortcut around a block, with a projection where the numbers of channels differ."""
    if x.sizes != y.sizes:
        return y
    if x.channels != y.channels:
        x = conv(draft, x, y.channels)
    return Tensor(draft.add("Add", draft.pick([x.name, y.name], [y.name, x.name])), y.channels, y.sizes)


def basic(draft: Draft, x: Tensor) -> Tensor:
    """Add two convolutions and a shortcut."""
    inner = activated(draft, x, draft.pick(2, 3, 5), 3, stride=draft.pick(1, 1, 2))
    return activation(draft, added(draft, x, conv(draft, inner, draft.pick(x.channels, 4), 3)))


def bottleneck(draft: Draft, x: Tensor) -> Tensor:
    """Add a 1×1, a 3×3 and a 1×1 convolution and a shortcut."""
    inner = activated(draft, activated(draft, x, draft.pick(2, 3)), draft.pick(2, 4), 3)
    return activation(draft, added(draft, x, conv(draft, inner, x.channels)))


def inverted(draft: Draft, x: Tensor) -> Tensor:
    """Add an inverted residual, perhaps with squeeze-and-excitation."""
    wide = activated(draft, x, draft.pick(4, 6))
    multiplier = draft.pick(1, 1, 1, 2)
    deep = conv(draft, wide, wide.channels * multiplier, 3, stride=draft.pick(1, 2), depthwise=True)
    deep = activation(draft, deep) if draft.pick(False, True) else deep
    return added(draft, x, conv(draft, excited(draft, deep) if draft.pick(False, True) else deep, x.channels))


def excited(draft: Draft, x: Tensor) -> Tensor:
    """Scale every channel by a gate that is computed from the means of all."""
    pooled = mean(draft, x)
    if draft.pick(False, True):
        squeezed = activated(draft, Tensor(pooled, x.channels, (1,) * len(x.sizes)), draft.pick(2, 3))
        gate = conv(draft, squeezed, x.channels).name
    else:
        rows = draft.add("Flatten", [pooled])
        inner = draft.add("Relu", [dense(draft, rows, x.channels, 3)])
        shape = draft.pick([0, x.channels, *[1] * len(x.sizes)], [-1, x.channels, *[1] * len(x.sizes)])
        gate = draft.add("Reshape", [dense(draft, inner, 3, x.channels), draft.store(shape, np.int64)])
    gate = draft.add(draft.pick("Sigmoid", "HardSigmoid"), [gate])
    return Tensor(product(draft, x.name, gate), x.channels, x.sizes)


def gated(draft: Draft, x: Tensor) -> Tensor:
    """Add two convolutions, one of which is the gate of the other."""
    filters, kernel = draft.pick(2, 4), draft.pick(1, 3)
    gate = draft.add("Sigmoid", [conv(draft, x, filters, kernel).name])
    features = conv(draft, x, filters, kernel)
    return conv(draft, Tensor(product(draft, features.name, gate), filters, x.sizes), draft.pick(2, 3))


def joined(draft: Draft, x: Tensor) -> Tensor:
    """Add a dense block: every convolution reads all tensors before it."""
    parts = [x]
    for _ in range(draft.pick(2, 3)):
        source = beside(draft, parts) if len(parts) > 1 else x
        if draft.sometimes():
            source = activation(draft, layers.norm(draft, source))
        parts.append(activated(draft, source, draft.pick(2, 3), 3))
    return added(draft, x, conv(draft, beside(draft, parts), x.channels, 3))


def branches(draft: Draft, x: Tensor) -> Tensor:
    """Add branches side by side and a convolution that reads them."""
    parts = [activated(draft, x, draft.pick(2, 3), kernel) for kernel in draft.pick((1, 3), (1, 3, 5), (3, 3))]
    return activated(draft, beside(draft, draft.pick(parts, parts[::-1])), draft.pick(2, 4))


def beside(draft: Draft, parts: Sequence[Tensor]) -> Tensor:
    """Add a Concat of channels."""
    axis = draft.pick(1, 1, -len(parts[0].sizes) - 1) if draft.opset >= 11 else 1
    y = draft.add("Concat", [part.name for part in parts], axis=axis)
    return Tensor(y, sum(part.channels for part in parts), parts[0].sizes)


def down_and_up(draft: Draft, x: Tensor) -> Tensor:
    """Add a level of a network in the shape of a U."""
    if len(x.sizes) != 2 or min(x.sizes) < 4:
        return basic(draft, x)
    skip = activated(draft, x, draft.pick(2, 3), 3)
    low = activated(draft, layers.pool(draft, skip), draft.pick(2, 4), 3)
    high = crop(draft, up(draft, low), skip.sizes)
    return activated(draft, beside(draft, [high, crop(draft, skip, high.sizes)]), draft.pick(2, 3), 3)


def up(draft: Draft, x: Tensor) -> Tensor:
    """Double the size by a transposed convolution, or by repeating pixels."""
    sizes = tuple(2 * size for size in x.sizes)
    if draft.pick(False, True):
        filters = draft.pick(2, 3)
        inputs = [x.name, draft.store(draft.random(x.channels, filters, 2, 2))]
        inputs += [draft.store(draft.random(filters))] if draft.pick(False, True) else []
        return Tensor(draft.add("ConvTranspose", inputs, strides=[2, 2]), filters, sizes)
    scales = [1.0, 1.0, 2.0, 2.0]
    if draft.opset < 9:
        y = draft.add("Upsample", [x.name], scales=scales)
    elif draft.opset < 11:
        y = draft.add("Resize" if draft.opset == 10 else "Upsample", [x.name, draft.store(scales, np.float32)])
    else:
        region = "" if draft.opset >= 13 else draft.store([], np.float32)
        y = draft.add("Resize", [x.name, region, draft.store(scales, np.float32)], mode="nearest")
    return Tensor(y, x.channels, sizes)


def crop(draft: Draft, x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Cut off what is beyond some sizes, if anything is."""
    smaller = tuple(min(pair) for pair in zip(x.sizes, sizes, strict=True))
    if smaller == x.sizes:
        return x
    if draft.opset < 10:
        y = draft.add("Slice", [x.name], starts=[0, 0], ends=list(smaller), axes=[2, 3])
    else:
        y = draft.add("Slice", [x.name, *(draft.store(one, np.int64) for one in ([0, 0], list(smaller), [2, 3]))])
    return Tensor(y, x.channels, smaller)


def mean(draft: Draft, x: Tensor) -> str:
    """Add the mean over all positions, which keeps the axes."""
    if draft.opset < 18 and draft.pick(False, True):
        return draft.add("ReduceMean", [x.name], axes=list(range(2, 2 + len(x.sizes))), keepdims=1)
    return draft.add("GlobalAveragePool", [x.name])


def dense(draft: Draft, rows: str, inputs: int, outputs: int) -> str:
    """Add a fully connected layer."""
    weight, bias = draft.random(outputs, inputs), draft.store(draft.random(outputs))
    if draft.pick(False, True):
        return draft.add("Gemm", [rows, draft.store(weight), bias], transB=1)
    return draft.add("Add", [draft.add("MatMul", [rows, draft.store(weight.T)]), bias])


def classified(draft: Draft, x: Tensor) -> Tensor:
    """End in fully connected layers, behind all positions or their mean."""
    width = x.channels * int(np.prod(x.sizes))
    if draft.pick(False, True):
        rows = flat(draft, x, width)
    else:
        rows, width = draft.add("Flatten", [mean(draft, x)]), x.channels
    inner = draft.add("Relu", [dense(draft, rows, width, 4)])
    return Tensor(dense(draft, inner, 4, 3), 3, ())


def flat(draft: Draft, x: Tensor, width: int) -> str:
    """Add a Flatten, or a Reshape to rows."""
    spelling = draft.pick("Flatten", "Reshape", "computed")
    if spelling == "Flatten":
        return draft.add("Flatten", [x.name])
    if spelling == "Reshape":
        return draft.add("Reshape", [x.name, draft.store(draft.pick([0, -1], [-1, width]), np.int64)])
    rows = draft.add("Gather", [draft.add("Shape", [x.name]), draft.store([0], np.int64)], axis=0)
    shape = draft.add("Concat", [rows, draft.store([draft.pick(-1, width)], np.int64)], axis=0)
    return draft.add("Reshape", [x.name, shape])


BLOCKS: Mapping[str, Block] = {
    "basic": basic,
    "bottleneck": bottleneck,
    "inverted": inverted,
    "gated": gated,
    "joined": joined,
    "branches": branches,
    "down and up": down_and_up,
    "excited": lambda draft, x: conv(draft, excited(draft, conv(draft, x, 4, 3)), 3),
}
"""The blocks, each of which hides channels inside."""


def block(draft: Draft, x: Tensor) -> Tensor:
    """Add one of the blocks."""
    return BLOCKS[draft.pick(*BLOCKS)](draft, x)
