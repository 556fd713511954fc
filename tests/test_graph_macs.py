"""Counting: against numbers worked out by hand."""

import numpy as np
import pytest
from models_for_tests import build, conv, photo, run_model, weights
from odd_models_for_tests import ALL
from onnx import helper

from onnx_lowrank.graph.count_macs import counted_tensors, macs_by_output
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.segments import whole


def test_every_operator_is_counted_by_its_formula() -> None:
    nodes = [
        conv("plain", "x", "w", "a", strides=[2, 2]),
        conv("depthwise", "a", "wg", "b", group=4),
        helper.make_node("ConvTranspose", ["b", "wt"], ["c"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "wf"], ["f"], transB=1),
        helper.make_node("Gemm", ["e", "f"], ["g"], transA=1),
        helper.make_node("MatMul", ["f", "wm"], ["y"]),
    ]
    stored = {
        "w": weights(1, 4, 3, 3, 3), "wg": weights(2, 4, 1, 3, 3), "wt": weights(3, 4, 5, 2, 2),
        "wf": weights(4, 7, 5), "wm": weights(5, 7, 9),
    }  # fmt: skip
    network = normalise(build(nodes, stored, ("y", "g"), output_shape=(None, None)))
    shapes = {
        name: values.shape
        for name, values in run_model(whole(network, counted_tensors(network)), {"x": photo()}).items()
    }
    counts = macs_by_output(network, shapes)
    n, h, w = 2, 6, 5
    assert counts == {
        "a": ("Conv", n * 4 * 3 * 9 * h * w),
        "b": ("Conv", n * 4 * 9 * h * w),
        "c": ("ConvTranspose", n * 4 * 5 * 4 * h * w),
        "f": ("Gemm", n * 7 * 5),
        "g": ("Gemm", 5 * 7 * n),
        "y": ("MatMul", n * 9 * 7),
    }


@pytest.mark.parametrize("name", ALL)
def test_the_named_shapes_suffice(name: str) -> None:
    network = normalise(ALL[name]())
    tapped = run_model(whole(network, counted_tensors(network)), {"x": photo()})
    counts = macs_by_output(network, {key: np.shape(value) for key, value in tapped.items()})
    assert all(count > 0 for _, count in counts.values())
