"""Models brought to a form that can say what a network in integers needs to."""

from dataclasses import replace

import onnx
import onnx.version_converter

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files.check import find_flaw
from onnx_lowrank.graph.files.load import LoadedModel, opset
from onnx_lowrank.graph.quantise.widen import has_half, widened

LOWEST = 13
"""The first opset in which every filter may have a scale of its own (DequantizeLinear-13)."""

LOWEST_IR = 7
"""The version of the format that came with it."""


def with_integers_possible(loaded: LoadedModel) -> LoadedModel:
    """Return a model in an opset that knows a scale for each filter, and in single precision inside.

    Raises
    ------
    ModelError
        If the converter of ONNX does not manage, or if the model is not valid in single precision.
    """
    proto = loaded.proto
    if opset(proto) < LOWEST:
        proto = _converted(proto)
    if has_half(proto):
        proto = widened(proto)
        if (problem := find_flaw(proto, full_check=True)) and not find_flaw(loaded.proto, full_check=True):
            raise ModelError(
                f"the model is in half precision, integers stand beside single precision, and it is not valid in that "
                f"({problem}): export it in single precision"
            )
    return loaded if proto is loaded.proto else replace(loaded, proto=proto)


def _converted(old: onnx.ModelProto) -> onnx.ModelProto:
    try:
        proto = onnx.version_converter.convert_version(old, LOWEST)
    except Exception as error:
        raise ModelError(
            f"the model has opset {opset(old)}, integers need {LOWEST}, and it cannot be converted "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}): export it again with a newer opset"
        ) from error
    proto.ir_version = max(proto.ir_version, LOWEST_IR)
    return proto
