"""Convolutions of every kind for random models: each function adds nodes to a draft and returns the new tensor."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from random_drafts import Draft, Tensor

LARGE = 12
"""A size from which a transposed convolution does not make a map any larger."""


def conv(draft: Draft, x: Tensor) -> Tensor:
    """Add a convolution of some kind."""
    n = len(x.sizes)
    odd = ("grouped", "grouped", "depthwise", "fused", "quantised", "varying")
    kind = draft.pick(*["plain"] * 9, "pointwise", "pointwise", *odd)
    divisors = [groups for groups in range(2, x.channels) if x.channels % groups == 0] or [1]
    groups = {"grouped": draft.pick(*divisors), "depthwise": x.channels}.get(kind, 1)
    filters = groups * draft.pick(1, 2, 3) if groups > 1 else draft.pick(1, 2, 4, 5, 6)
    kernel = tuple(1 if kind == "pointwise" else draft.pick(1, 2, 3, 3) for _ in range(n))
    attributes, sizes = geometry(draft, x.sizes, kernel)
    if groups > 1 or draft.sometimes():
        attributes["group"] = groups
    if draft.sometimes():
        attributes["kernel_shape"] = kernel
    reads = [x.name, weight(draft, (filters, x.channels // groups, *kernel), kind, x)]
    bias = draft.pick("none", "empty", "stored", "stored")
    if bias == "stored":
        reads.append(draft.store_weight(draft.random(filters)))
    elif bias == "empty":
        reads.append("")
    if kind == "fused" and not draft.half:
        draft.domains.add("com.microsoft")
        reads = reads if bias == "stored" else reads[:2]
        y = draft.add("FusedConv", reads, domain="com.microsoft", activation="Relu", **attributes)
    else:
        y = draft.add("Conv", reads, **attributes)
    return Tensor(y, filters, sizes)


def weight(draft: Draft, shape: tuple[int, ...], kind: str, x: Tensor) -> str:
    """Return the weight of a convolution: a new one, a shared one, a quantised one or one that depends on the input."""
    alike = [name for name, other in draft.weights if other == shape]
    if alike and draft.pick(False, True):
        return str(draft.pick(*alike))
    if kind == "quantised" and draft.opset >= 10 and not draft.half:
        whole_numbers = draft.store(draft.rng.integers(-9, 9, shape), np.int8)
        return draft.add("DequantizeLinear", [whole_numbers, draft.store(0.05)])
    name = draft.store_weight(draft.random(*shape))
    if kind == "varying":
        mean = draft.add("ReduceMean", [x.name], keepdims=0)
        return draft.add("Mul", [name, mean])
    draft.weights.append((name, shape))
    return name


def geometry(draft: Draft, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return strides, dilations and padding for a kernel, and the sizes of the response."""
    n = len(sizes)
    if draft.pick(False, True):  # what most networks have
        return {"pads": [(k - 1) // 2 for k in kernel] + [k // 2 for k in kernel]}, tuple(sizes)
    auto = draft.pick("", "", "", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")
    same = auto.startswith("SAME")
    strides = [draft.pick(1, 1, 1, 2, 3) for _ in range(n)]
    dilations = [1 if same else draft.pick(1, 1, 2) for _ in range(n)]
    extents = [(k - 1) * dilation + 1 for k, dilation in zip(kernel, dilations, strict=True)]
    pads = [0] * (2 * n) if auto == "VALID" or same else [draft.pick(0, 1, 1, 2) for _ in range(2 * n)]
    for axis in range(n):
        missing = extents[axis] - sizes[axis] - pads[axis] - pads[n + axis]
        if missing > 0 and not same:
            pads[n + axis] += missing
            auto = "NOTSET"
    attributes: dict[str, Any] = {"auto_pad": auto} if auto else {}
    if auto in ("", "NOTSET") and (any(pads) or draft.sometimes()):
        attributes["pads"] = pads
    for key, values in (("strides", strides), ("dilations", dilations)):
        if set(values) != {1} or draft.sometimes():
            attributes[key] = values
    if same:
        return attributes, tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    padded = [size + pads[axis] + pads[n + axis] for axis, size in enumerate(sizes)]
    positions = zip(padded, extents, strides, strict=True)
    return attributes, tuple((size - extent) // stride + 1 for size, extent, stride in positions)


def transposed(draft: Draft, x: Tensor) -> Tensor:
    """Add a ConvTranspose of some kind."""
    n = len(x.sizes)
    kind = draft.pick("plain", "plain", "grouped", "depthwise", "varying")
    divisors = [groups for groups in range(2, x.channels) if x.channels % groups == 0] or [1]
    groups = {"grouped": draft.pick(*divisors), "depthwise": x.channels}.get(kind, 1)
    filters, kernel = groups * draft.pick(1, 2, 3), tuple(draft.pick(1, 2, 2, 3, 4) for _ in range(n))
    attributes, sizes = transposed_geometry(draft, x.sizes, kernel)
    if groups > 1 or draft.sometimes():
        attributes["group"] = groups
    if draft.sometimes():
        attributes["kernel_shape"] = kernel
    reads = [x.name, weight(draft, (x.channels, filters // groups, *kernel), kind, x)]
    if draft.pick(False, True):
        reads.append(draft.store_weight(draft.random(filters)))
    return Tensor(draft.add("ConvTranspose", reads, **attributes), filters, sizes)


def transposed_geometry(
    draft: Draft, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return the attributes of a ConvTranspose with a kernel, and the sizes of its response."""
    n = len(sizes)
    strides = [draft.pick(1, 2, 2, 3) if size < LARGE else 1 for size in sizes]
    dilations = [draft.pick(1, 1, 1, 2) for _ in range(n)]
    attributes: dict[str, Any] = {}
    for key, values in (("strides", strides), ("dilations", dilations)):
        if set(values) != {1} or draft.sometimes():
            attributes[key] = values
    sides = zip(sizes, strides, kernel, dilations, strict=True)
    full = [(size - 1) * stride + (k - 1) * dilation + 1 for size, stride, k, dilation in sides]
    way = draft.pick("plain", "pads", "pads", "VALID", "SAME_UPPER", "SAME_LOWER", "shape")
    if way.startswith("SAME"):
        grown = tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
        # Where the whole response is smaller than that, ONNX and ONNX Runtime do not agree on its size.
        if all(own <= whole for own, whole in zip(grown, full, strict=True)):
            return attributes | {"auto_pad": way}, grown
    if way == "shape":  # at least as large as the input, or ONNX's shape inference goes astray
        stated = [max(size, whole - draft.pick(0, 1, 2)) for size, whole in zip(sizes, full, strict=True)]
        return attributes | {"output_shape": stated}, tuple(stated)
    if way == "VALID":
        return attributes | {"auto_pad": way}, tuple(full)
    pads, more = [0] * (2 * n), [0] * n
    if way == "pads":
        pads = [draft.pick(0, 0, 1) if whole > 2 else 0 for whole in (*full, *full)]
        more = [draft.pick(0, stride - 1) for stride in strides]
        attributes["pads"] = pads
        if any(more) or draft.sometimes():
            attributes["output_padding"] = more
    return attributes, tuple(full[axis] - pads[axis] - pads[n + axis] + more[axis] for axis in range(n))


def projection(draft: Draft, source: Tensor, x: Tensor) -> str:
    """Add a 1×1 convolution that brings a tensor to the channels of x, and its average where the sizes differ."""
    ones = [1] * len(source.sizes)
    kernel = draft.store_weight(draft.random(x.channels, source.channels, *ones))
    y = draft.add("Conv", [source.name, kernel])
    return y if source.sizes == x.sizes else draft.add("GlobalAveragePool", [y])


def conv_of_same_size(draft: Draft, x: Tensor, filters: int, y: str) -> None:
    """Add a 3×3 convolution that makes the tensor y of the same sizes, for a body."""
    n = len(x.sizes)
    kernel = draft.store_weight(draft.random(filters, x.channels, *[3] * n))
    draft.add("Conv", [x.name, kernel], y, pads=[1] * (2 * n))
