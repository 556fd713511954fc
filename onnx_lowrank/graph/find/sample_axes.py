"""The dimension of every input that counts the samples of a run.

Usually that is the first one, but a detector may take one image [3, H, W], and a recurrent network a state [2, N, 64]
and a scalar rate beside its audio [N, 512]. What the first convolution reads tells them apart, because the first
dimension of its input counts samples whatever the inputs of the model look like:

    its size has a name    the samples lie along the dimension of that name, if an input has one
    it is a number         they lie along a dimension of that size; an input that has none takes one sample without a
                           dimension for it

Names that mean a batch speak for themselves, and open sizes without a name get one, so that they can be followed to the
convolution. What remains open counts the samples with its first dimension.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import onnx

from onnx_lowrank.graph.files.stated import without_statements
from onnx_lowrank.graph.protos import all_nodes, bodies
from onnx_lowrank.interface import TensorSpec

_BATCH = re.compile(r"n|b|bs|bsz|nb|samples|num_?samples|.*batch.*", re.IGNORECASE)
"""Names that users and exporters give to the number of samples."""

_MADE_UP = re.compile(r"unk.*|.*dynamic.*|dim_?\d*|[su]\d+|\w*_dim_?\d+", re.IGNORECASE)
"""Names that exporters make up, a new one for every dimension, so that different names may mean the same size."""

_CONVS = ("Conv", "ConvTranspose", "FusedConv")
"""Operators that read samples on their first dimension; the last one is ONNX Runtime's own."""

Side = int | str | None


@dataclass(frozen=True)
class _Clue:
    """The input of a convolution: the first dimension, and the others."""

    first: int | str
    others: tuple[int | str, ...]


def with_axes(proto: onnx.ModelProto, specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Return the inputs of a model with the dimension that counts the samples, and whether a node reads them.

    Parameters
    ----------
    proto
        The model.
    specs
        What it declares of its inputs.
    """
    read = set(_names_read(proto))
    specs = tuple(replace(spec, read=spec.name in read) for spec in specs)
    if all(spec.shape is None or (spec.shape and _means_batch(spec.shape[0])) for spec in specs):
        return specs
    clue = _clue(proto, [spec for spec in specs if spec.read])
    return tuple(replace(spec, axis=_axis(spec, specs, clue)) for spec in specs)


def _named(spec: TensorSpec) -> list[int | str]:
    """Return the sizes of an input, with a name of its own for each that nothing is known of."""
    return [f"{spec.name} {axis}" if side is None else side for axis, side in enumerate(spec.shape or ())]


def _axis(spec: TensorSpec, specs: Sequence[TensorSpec], clue: _Clue | None) -> int | None:
    """Return the dimension of an input that counts samples."""
    shape = spec.shape
    if shape is None:
        return 0
    if not shape:
        return None
    if clue and isinstance(clue.first, str) and clue.first in _named(spec):
        return _named(spec).index(clue.first)
    if batches := [axis for axis, side in enumerate(shape) if _means_batch(side)]:
        return batches[0]
    if clue and isinstance(clue.first, int):
        return _axis_of_size(_named(spec), clue.first, clue.others)
    if clue is None and not any(_is_open(other.shape) for other in specs):
        # Runs of one sample are by far the most common ones where every size is fixed.
        return _axis_of_size(_named(spec), 1, ()) if any(other.shape and other.shape[0] == 1 for other in specs) else 0
    # The samples have an open size elsewhere, under another name.
    first = shape[0]
    if isinstance(first, int):
        return None
    elsewhere = (side for other in specs if other is not spec for side in (other.shape or ())[1:])
    if first is not None and first in elsewhere:
        return None
    return 0 if clue is None or first is None or _MADE_UP.fullmatch(str(first)) else None


def _axis_of_size(shape: Sequence[int | str], size: int, others: Sequence[int | str]) -> int | None:
    """Return the dimension that counts samples where the first convolution reads this number of them.

    Parameters
    ----------
    shape
        The sizes of the input.
    size, others
        What the convolution reads: the number of samples, and the sizes of one sample.
    """
    first = shape[0]
    if first == size:
        return 0
    if isinstance(first, int):
        return shape.index(size) if size in shape else None
    # Either the number of samples is fixed inside the network, or a dimension for them is added there, in front of the
    # sizes of a sample.
    is_image = len(shape) == 3 and not {shape[0], shape[-1]}.isdisjoint((1, 3, 4))
    added = first in others or (is_image and len(others) == len(shape))
    return None if size == 1 and added else 0


def _clue(proto: onnx.ModelProto, specs: Sequence[TensorSpec]) -> _Clue | None:
    """Return what the first convolution reads; None where ONNX does not infer it, or it says nothing of samples.

    Where a network divides each sample into patches, or joins mirrored ones, its convolutions read another number than
    that of any input.
    """
    sizes = {spec.name: _named(spec) for spec in specs}
    bare = without_statements(proto)
    for value in bare.graph.input:
        for dim, side in zip(value.type.tensor_type.shape.dim, sizes.get(value.name, ()), strict=False):
            if isinstance(side, str):
                dim.dim_param = side
    try:
        graph = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # of many kinds
        return None
    shapes = {
        value.name: value.type.tensor_type.shape.dim for value in (*graph.value_info, *graph.input, *graph.output)
    }
    known = {side for shape in sizes.values() for side in shape}
    for node in graph.node:
        dims = shapes.get(node.input[0]) if node.op_type in _CONVS else None
        if not dims:
            continue
        first, *others = (dim.dim_value or dim.dim_param for dim in dims)
        if first in known or first == 1:
            return _Clue(first, tuple(others))
    return None


def _names_read(proto: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of all tensors that nodes read, also inside bodies, and of the outputs."""
    for node in all_nodes(proto.graph):
        yield from node.input
        for body in bodies(node):
            yield from (value.name for value in body.output)
    yield from (value.name for value in proto.graph.output)


def _means_batch(side: Side) -> bool:
    return isinstance(side, str) and bool(_BATCH.fullmatch(side))


def _is_open(shape: Sequence[Side] | None) -> bool:
    return bool(shape) and not isinstance(shape[0] if shape else None, int)
