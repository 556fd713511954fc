"""The operators of ONNX that compute nothing, as operators of a block; see ``operators``."""

import math

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnx_lowrank.factorise.blocks.arrangement import Joined, Padded, Repeated, Reshaped, Section, Transposed
from onnx_lowrank.factorise.blocks.interpolation import Interpolated
from onnx_lowrank.graph.blocks.reader import BlockReader, CannotBeReadError

FLOATING = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)
"""The element types between which a Cast only rounds."""


def read_concat(reader: BlockReader, node: gs.Node) -> None:
    """Read a Concat."""
    if not all(map(reader.varies, node.inputs)):
        raise CannotBeReadError("Concat joins constants")
    axis = reader.axis(int(node.attrs["axis"]), len(reader.shape(node.inputs[0])))
    reader.add(Joined(axis), [reader.name(tensor) for tensor in node.inputs], node.outputs[0])


def read_resize(reader: BlockReader, node: gs.Node) -> None:
    """Read a Resize or Upsample that repeats every position, or is linear in between."""
    kind = node.attrs.get("mode", "nearest")
    if kind not in ("nearest", "linear"):
        raise CannotBeReadError(f"{node.op} interpolates in the mode {kind}")
    # Upsample and the first Resize know no other mode.
    mode = node.attrs.get("coordinate_transformation_mode", "half_pixel" if len(node.inputs) > 2 else "asymmetric")
    if mode not in ("asymmetric", "half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        raise CannotBeReadError(f"{node.op} places its positions in the mode {mode}")
    times, name = _times(reader, node), reader.name(node.inputs[0])
    if kind == "linear":
        reader.add(Interpolated(times, mode != "asymmetric"), [name], node.outputs[0])
        return
    down = node.attrs.get("nearest_mode", "round_prefer_floor") == "floor"
    if mode == "asymmetric" and not down and max(times) > 2:
        raise CannotBeReadError(f"{node.op} rounds positions to the nearest")
    reader.add(Repeated(times), [name], node.outputs[0])


def _times(reader: BlockReader, node: gs.Node) -> tuple[int, ...]:
    """Return how many times as long a Resize makes each spatial axis."""
    shape = reader.shape(node.inputs[0])
    given = [reader.fixed(tensor) if tensor.name else None for tensor in node.inputs[1:]]
    numbers = next((own for own in reversed(given) if own is not None and own.size == len(shape)), None)
    if numbers is None or node.attrs.get("axes"):
        raise CannotBeReadError(f"{node.op} has sizes that are no constants")
    exact = numbers / (1 if numbers.dtype.kind == "f" else np.array((1, shape[0], *shape[2:])))
    times = tuple(round(float(own)) for own in exact)
    if not np.allclose(exact, times) or times[:2] != (1, 1) or min(times) < 1:
        raise CannotBeReadError(f"{node.op} resizes by no whole number")
    return times[2:]


def read_reshape(reader: BlockReader, node: gs.Node) -> None:
    """Read whatever gives the elements of each sample another shape."""
    shape = reader.shape(node.inputs[0])
    own = (shape[1], shape[0], *shape[2:])
    if node.op == "Flatten":
        if int(node.attrs.get("axis", 1)) != 1:
            raise CannotBeReadError("Flatten mixes samples")
        target = [1, -1]
    elif node.op == "Reshape":
        values = reader.fixed(node.inputs[1])
        if values is None or node.attrs.get("allowzero", 0):
            raise CannotBeReadError("Reshape has a target that is no constant")
        target = [own[index] if length == 0 else int(length) for index, length in enumerate(values.reshape(-1))]
    else:
        given = reader.fixed(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("axes")
        if given is None:
            raise CannotBeReadError(f"{node.op} names no axes")
        array = np.zeros(own, np.bool_)
        changed = np.expand_dims if node.op == "Unsqueeze" else np.squeeze
        target = list(changed(array, tuple(int(axis) for axis in given)).shape)
    size = math.prod(own)
    if target[:1] == [-1] and math.prod(target[1:]) == size:
        target[0] = 1
    if len(target) < 2 or target[0] != 1:
        raise CannotBeReadError(f"{node.op} mixes samples")
    reader.add(Reshaped(tuple(target[1:])), [reader.name(node.inputs[0])], node.outputs[0])


def read_transpose(reader: BlockReader, node: gs.Node) -> None:
    """Read a Transpose."""
    rank = len(reader.shape(node.inputs[0]))
    order = list(node.attrs.get("perm", range(rank - 1, -1, -1)))
    if order[0] != 0:
        raise CannotBeReadError("Transpose moves the samples")
    own = [1 if axis == 0 else 0 if axis == 1 else axis for axis in order]
    reader.add(Transposed((own[1], own[0], *own[2:])), [reader.name(node.inputs[0])], node.outputs[0])


def read_split(reader: BlockReader, node: gs.Node) -> None:
    """Read a Split."""
    shape = reader.shape(node.inputs[0])
    axis = reader.axis(int(node.attrs.get("axis", 0)), len(shape))
    given = reader.fixed(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1].name else node.attrs.get("split")
    count = len(node.outputs)
    sizes = [shape[axis] // count] * count if given is None else [int(size) for size in given]
    if sum(sizes) != shape[axis] or len(sizes) != count:
        raise CannotBeReadError("Split leaves unequal parts")
    start = 0
    for size, output in zip(sizes, node.outputs, strict=True):
        reader.add(Section(axis, start, start + size), [reader.name(node.inputs[0])], output)
        start += size


def read_slice(reader: BlockReader, node: gs.Node) -> None:
    """Read a Slice."""
    shape = reader.shape(node.inputs[0])
    given = [reader.fixed(tensor) if tensor.name else None for tensor in node.inputs[1:]]
    starts, stops, axes, steps = [*given, None, None][:4]
    if starts is None or stops is None or len(given) < 2:
        raise CannotBeReadError("Slice has bounds that are no constants")
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    name = reader.name(node.inputs[0])
    for number, (start, stop, axis, step) in enumerate(zip(starts, stops, axes, steps, strict=True), 1):
        own = reader.axis(int(axis), len(shape))
        bounds = slice(int(start), int(stop), int(step)).indices(shape[own])
        if step < 1:
            raise CannotBeReadError("Slice goes backwards")
        makes = node.outputs[0].name if number == len(starts) else f"{node.outputs[0].name} {number}"
        reader.add(Section(own, *bounds), [name], makes)
        name = makes


def read_pad(reader: BlockReader, node: gs.Node) -> None:
    """Read a Pad by zeros."""
    rank = len(reader.shape(node.inputs[0]))
    pads = reader.fixed(node.inputs[1]) if len(node.inputs) > 1 else np.asarray(node.attrs.get("pads", ()))
    value = reader.fixed(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    plain = node.attrs.get("mode", "constant") == "constant" and not (node.attrs.get("value", 0) or np.any(value))
    if pads is None or len(pads) != 2 * rank or not plain or len(node.inputs) > 3:
        raise CannotBeReadError("Pad adds what is no zeros")
    before, after = ([int(count) for count in own] for own in (pads[:rank], pads[rank:]))
    if any(before[:2] + after[:2]) or min(before + after) < 0:
        raise CannotBeReadError("Pad adds channels, or takes positions away")
    reader.add(Padded(tuple(before[2:]), tuple(after[2:])), [reader.name(node.inputs[0])], node.outputs[0])


def read_cast(reader: BlockReader, node: gs.Node) -> None:
    """Read a conversion between floating-point types, whose rounding is taken for nothing."""
    if node.attrs["to"] not in FLOATING:
        raise CannotBeReadError("Cast makes whole numbers of a map")
    read_same(reader, node)


def read_same(reader: BlockReader, node: gs.Node) -> None:
    """Read a node that passes its input on."""
    if not reader.varies(node.inputs[0]) or any(output.outputs for output in node.outputs[1:]):
        raise CannotBeReadError(f"{node.op} makes more than one tensor")
    training = reader.fixed(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2].name else None
    if training is not None and bool(training):
        raise CannotBeReadError("Dropout draws random numbers")
    reader.rename(node.inputs[0], node.outputs[0])
