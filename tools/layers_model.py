"""Convert a network that TensorFlow.js keeps as a layers model (model.json and files of weights) to ONNX.

Only the layers of plain convolutional networks from image to image are known. Tensors become [N, C, H, W].
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 13, 8

ACTIVATIONS = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}

RESIZING = {
    "nearest": {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
}


def convert(folder: Path, out: Path) -> None:
    """Write the layers model in a folder as an ONNX file that takes images of any size.

    Raises
    ------
    SystemExit
        If it has a layer that is not known here.
    """
    spec = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    stored, config = _weights(folder, spec), spec["modelTopology"]["model_config"]["config"]
    nodes: list[Any] = []
    initializers: list[Any] = []
    source = ""
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            source = layer["config"]["name"]
        else:
            own_nodes, own_values = _layer(layer, stored)
            nodes += own_nodes
            initializers += [numpy_helper.from_array(value, name) for name, value in own_values.items()]
    result = config["output_layers"][0][0]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", 3, "H", "W"])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, out)


def _weights(folder: Path, spec: dict[str, Any]) -> dict[str, NDArray[np.float32]]:
    """Read all weights: they follow one another in the files of a group."""
    stored = {}
    for group in spec["weightsManifest"]:
        raw, at = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
        for entry in group["weights"]:
            count = int(np.prod(entry["shape"]))
            stored[entry["name"]] = np.frombuffer(raw, np.float32, count, at).reshape(entry["shape"]).copy()
            at += 4 * count
    return stored


def _layer(layer: dict[str, Any], stored: dict[str, NDArray[np.float32]]) -> tuple[list[Any], dict[str, Any]]:
    """Return the nodes of a layer, and the values of its initializers by name."""
    kind, config = layer["class_name"], layer["config"]
    name, inputs = config["name"], [entry[0] for entry in layer["inbound_nodes"][0]]
    if kind == "Conv2D" and config["activation"] in ("linear", "relu"):
        sizes, active = config["kernel_size"], config["activation"] == "relu"
        kernel = np.ascontiguousarray(stored[f"{name}/kernel"].transpose(3, 2, 0, 1))  # [H, W, C, D] → [D, C, H, W]
        values = {f"{name}_w": kernel, f"{name}_b": stored[f"{name}/bias"]}
        made = f"{name}_lin" if active else name
        pads = [size // 2 if config["padding"] == "same" else 0 for size in sizes] * 2
        conv = helper.make_node("Conv", [inputs[0], *values], [made], name=name, kernel_shape=sizes, pads=pads)
        return [conv, *([helper.make_node("Relu", [made], [name], name=f"{name}_relu")] if active else [])], values
    if kind == "Activation" and config["activation"] in ACTIVATIONS:
        return [helper.make_node(ACTIVATIONS[config["activation"]], inputs, [name], name=name)], {}
    if kind == "Concatenate":
        return [helper.make_node("Concat", inputs, [name], name=name, axis=1)], {}
    if kind == "Add":
        return [helper.make_node("Add", inputs, [name], name=name)], {}
    if kind == "UpSampling2D" and config["interpolation"] in RESIZING:
        scales = {f"{name}_s": np.array([1, 1, *config["size"]], np.float32)}
        how = RESIZING[config["interpolation"]]
        return [helper.make_node("Resize", [inputs[0], "", *scales], [name], name=name, **how)], scales
    raise SystemExit(f"layer {name!r} is a {kind} that is not known here")
