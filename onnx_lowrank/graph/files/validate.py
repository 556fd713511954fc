"""Checks of a rewritten model that need no run."""

from collections.abc import Sequence

import onnx

from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.files.check import find_flaw
from onnx_lowrank.graph.files.external import LARGEST


def validate(proto: onnx.ModelProto, original: onnx.ModelProto, largest: int = LARGEST) -> None:
    """Check that a model is valid ONNX and still has the original's interface.

    Parameters
    ----------
    proto
        The rewritten model.
    original
        The model it was made from, itself valid.
    largest
        Bytes of weights up to which a model is checked from memory.

    Raises
    ------
    ValidationError
        If the checker or the shape inference refuses it (the latter only where it accepts the original), or if inputs,
        outputs, opsets or IR version differ.
    """
    if (proto.ir_version, _opsets(proto)) != (original.ir_version, _opsets(original)):
        raise ValidationError(
            f"the rewritten model has IR {proto.ir_version} and opsets {_opsets(proto)}, the original IR "
            f"{original.ir_version} and {_opsets(original)}; please report this"
        )
    _compare("inputs", _inputs(proto), _inputs(original))
    _compare("outputs", proto.graph.output, original.graph.output)
    for full_check, flaw in ((False, "not valid ONNX"), (True, "inconsistent in its shapes")):
        problem = find_flaw(proto, full_check=full_check, largest=largest)
        # Some models in use never pass the strict inference; all that is asked of these is that they do not get worse.
        if problem is not None and find_flaw(original, full_check=full_check, largest=largest) is None:
            raise ValidationError(f"the rewritten model is {flaw}: {problem}; please report this")


def _opsets(proto: onnx.ModelProto) -> dict[str, int]:
    return {imported.domain: imported.version for imported in proto.opset_import}


def _inputs(proto: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    stored = {tensor.name for tensor in proto.graph.initializer}
    stored |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return [value for value in proto.graph.input if value.name not in stored]


def _compare(side: str, new: Sequence[onnx.ValueInfoProto], old: Sequence[onnx.ValueInfoProto]) -> None:
    names = [[value.name for value in values] for values in (new, old)]
    if names[0] != names[1]:
        raise ValidationError(f"the rewritten model has the {side} {names[0]}, the original {names[1]}")
    for left, right in zip(new, old, strict=True):
        if left.type != right.type:
            raise ValidationError(f"the rewritten model changed the type of {left.name!r} among its {side}")
