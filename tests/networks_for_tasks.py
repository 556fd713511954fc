"""Small networks with a task: one that restores pictures, one that segments them, and one that finds boxes."""

from typing import Any

import numpy as np
import onnx
from models_for_tests import build, conv, relu, run_model, weights
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]

SIDE = 32
CLASSES = 3
"""The number of classes of the network that finds boxes."""


def _stem() -> tuple[list[Any], dict[str, Array]]:
    """Three convolutions of 16 channels, of which "r2" is the last response."""
    stored = {"w0": weights(1, 16, 3, 3, 3), "w1": weights(2, 16, 16, 3, 3), "w2": weights(3, 16, 16, 3, 3)}
    nodes = [
        *(conv("conv0", "x", "w0", "c0"), relu("c0", "r0"), conv("conv1", "r0", "w1", "c1"), relu("c1", "r1")),
        *(conv("conv2", "r1", "w2", "c2"), relu("c2", "r2")),
    ]
    return nodes, stored


def restorer() -> onnx.ModelProto:
    """Build a picture with a small correction."""
    nodes, stored = _stem()
    stored["w3"] = 0.05 * weights(4, 3, 16, 3, 3)
    nodes += [conv("conv3", "r2", "w3", "c3"), helper.make_node("Add", ["x", "c3"], ["y"])]
    return build(nodes, stored, output_shape=("N", 3, "H", "W"))


def segmenter() -> onnx.ModelProto:
    """Build scores of four classes for every pixel."""
    nodes, stored = _stem()
    stored["w3"] = weights(4, 4, 16, 3, 3)
    return build([*nodes, conv("conv3", "r2", "w3", "y")], stored, output_shape=("N", 4, "H", "W"))


def detector() -> onnx.ModelProto:
    """Build the rows of a YOLOX, [N, 21, 5 + 3], on images of 32 pixels: 16 cells of 8, 4 of 16 and one of 32.

    What is the same in all images is taken off, so that objects and classes differ.
    """
    nodes, stored = _stem()
    means = run_model(build(nodes, stored, ("r2",)), {"x": samples(8, 1)})["r2"].mean(axis=(0, 2, 3))
    channels, x, rows = 5 + CLASSES, "r2", []
    for level, size in enumerate((8, 2, 2)):
        pooled, head, bias, raw, flat = (f"{name}{level}" for name in ("pooled", "w_head", "b_head", "raw", "flat"))
        kernel = 150 * weights(10 + level, channels, 16, 1, 1)
        kernel[:4] *= 0.002
        stored |= {head: kernel, bias: -kernel[:, :, 0, 0] @ means}
        nodes += [
            helper.make_node("AveragePool", [x], [pooled], kernel_shape=[size] * 2, strides=[size] * 2),
            conv(f"head{level}", pooled, head, raw, bias, pads=[0] * 4),
            helper.make_node("Reshape", [raw, "shape"], [flat]),
        ]
        x = pooled
        rows.append(flat)
    stored |= {"shape": np.array([0, channels, -1]), "sizes": np.array([2, 2, 1 + CLASSES])}
    stored |= {"half": np.array(0.5, np.float32)}
    nodes += [
        helper.make_node("Concat", rows, ["all"], axis=2),
        helper.make_node("Transpose", ["all"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Split", ["turned", "sizes"], ["shifts", "sides", "logits"], axis=2),
        helper.make_node("Add", ["shifts", "half"], ["places"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Concat", ["places", "sides", "scores"], ["rows"], axis=2),
    ]
    return build(nodes, stored, ("rows",), input_shape=("N", 3, SIDE, SIDE), output_shape=("N", 21, channels))


def samples(count: int = 40, seed: int = 0) -> Array:
    """Images of smooth colours between 0 and 1, [count, 3, 32, 32], in steps of 8 bits."""
    coarse = np.random.default_rng(seed).random((count, 3, SIDE // 4, SIDE // 4))
    fine = np.kron(coarse, np.ones((1, 1, 4, 4)))
    return (np.round(255 * fine) / 255).astype(np.float32)
