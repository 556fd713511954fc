"""Tensors of types that NumPy does not know, carried out of a model and into the next one in a wider type.

bfloat16 and the floats of 8 bits are exact in single precision, and integers of 2 and 4 bits in one of 8. A model that
makes such a tensor is given a Cast behind it, and a model that reads it a Cast in front.
"""

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from onnx_lowrank.graph.protos import copy_fields, names_in, typed
from onnx_lowrank.graph.tensors import unique

_WIDE = {
    "BFLOAT16": TensorProto.FLOAT,
    "FLOAT8E4M3FN": TensorProto.FLOAT,
    "FLOAT8E4M3FNUZ": TensorProto.FLOAT,
    "FLOAT8E5M2": TensorProto.FLOAT,
    "FLOAT8E5M2FNUZ": TensorProto.FLOAT,
    "FLOAT8E8M0": TensorProto.FLOAT,
    "FLOAT4E2M1": TensorProto.FLOAT,
    "INT4": TensorProto.INT8,
    "INT2": TensorProto.INT8,
    "UINT4": TensorProto.UINT8,
    "UINT2": TensorProto.UINT8,
}

NARROW: dict[str, int] = {
    f"tensor({name.lower()})": number
    for name, number in TensorProto.DataType.items()  # older versions of onnx know fewer
    if name in _WIDE
}
"""The types that are carried in a wider one, as ONNX Runtime spells them, with their ONNX numbers."""


def carrying(model: onnx.ModelProto, narrow: Mapping[str, int]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Let a model take and return some tensors in a wider type.

    Parameters
    ----------
    model
        It is not changed.
    narrow
        The types of tensors by name; those that are neither inputs nor outputs of the model do not count.

    Returns
    -------
    onnx.ModelProto, dict
        The model, and the names of the tensors by the names that the inputs and outputs in their place have.
    """
    if not any(value.name in narrow for value in (*model.graph.input, *model.graph.output)):
        return model, {}
    result = onnx.ModelProto()
    copy_fields(model, result, {"graph"})
    copy_fields(model.graph, result.graph, {"node", "input", "output"})
    graph, taken, names = result.graph, names_in(model.graph), dict[str, str]()
    graph.node.extend(model.graph.node)
    for value in model.graph.input:
        if value.name not in narrow:
            graph.input.append(value)
            continue
        number, name = narrow[value.name], unique(f"{value.name}/carried", taken)
        names[name] = value.name
        graph.input.append(typed(name, _wide(number)))
        cast = onnx.helper.make_node("Cast", [name], [value.name], to=number)
        if TensorProto.DataType.Name(number).startswith("FLOAT8E") and number != NARROW.get("tensor(float8e8m0)"):
            cast.attribute.append(onnx.helper.make_attribute("saturate", 0))  # infinity stays infinity
        graph.node.insert(0, cast)
    for value in model.graph.output:
        if value.name not in narrow:
            graph.output.append(value)
            continue
        wide, name = _wide(narrow[value.name]), unique(f"{value.name}/carried", taken)
        names[name] = value.name
        graph.node.append(onnx.helper.make_node("Cast", [value.name], [name], to=wide))
        graph.output.append(typed(name, wide))
    return result, names


def _wide(number: int) -> int:
    return int(_WIDE[TensorProto.DataType.Name(number)])
