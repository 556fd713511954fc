"""Models whose inputs carry the samples along any dimension, or along none, and their samples in every layout."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from models_for_tests import IR, OPSET, conv, photo, relu, weights
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Inputs = dict[str, Array]
"""What one run of one sample takes."""


def build(
    nodes: Sequence[Any], stored: dict[str, Array], inputs: dict[str, tuple[int, Any]], outputs: dict[str, Any]
) -> onnx.ModelProto:
    """Put nodes together; inputs have an element type and a shape, outputs a shape."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info(name, element, shape) for name, (element, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(values, name) for name, values in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def detector(shape: Sequence[Any] = (3, "H", "W"), *, last: bool = False) -> onnx.ModelProto:
    """Build conv1 to conv3 and scores [5] over one image, which has no batch; its channels may come last."""
    stored = {
        "zero": np.array([0]), "w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3),
        "w3": weights(3, 12, 12, 3, 3), "w": weights(4, 12, 5),
    }  # fmt: skip
    turn = [helper.make_node("Transpose", ["image"], ["first"], perm=[2, 0, 1])] if last else []
    nodes = [
        *turn, helper.make_node("Unsqueeze", ["first" if last else "image", "zero"], ["x"]),
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "c3"), relu("c3", "r3"), helper.make_node("GlobalAveragePool", ["r3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["m"]),
        helper.make_node("Squeeze", ["m", "zero"], ["scores"]),
    ]  # fmt: skip
    return build(nodes, stored, {"image": (TensorProto.FLOAT, shape)}, {"scores": [5]})


def voice(samples: int | str = "batch") -> onnx.ModelProto:
    """Build conv1 to conv3 over audio [N, 48], a state [2, N, 6], a rate, and an input that no node reads.

    The outputs are "score" [N, 6] and "state_out" [2, N, 6].
    """
    stored = {
        "one": np.array([1]), "last": np.array([2]), "zero": np.array([0]), "rate_of_16k": np.array(16000),
        "w1": weights(1, 8, 1, 5), "w2": weights(2, 12, 8, 3), "w3": weights(3, 6, 12, 3),
        "half": np.array(0.5, np.float32), "whole": np.array(1, np.float32), "first": np.array(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "one"], ["x"]),
        conv("conv1", "x", "w1", "c1", pads=[2, 2]), relu("c1", "r1"),
        conv("conv2", "r1", "w2", "c2", pads=[1, 1]), relu("c2", "r2"), conv("conv3", "r2", "w3", "c3", pads=[1, 1]),
        helper.make_node("ReduceMean", ["c3"], ["mean"], axes=[2], keepdims=0),
        helper.make_node("Gather", ["state", "first"], ["held"], axis=0),
        helper.make_node("Equal", ["rate", "rate_of_16k"], ["is_16k"]),
        helper.make_node("Where", ["is_16k", "whole", "half"], ["scale"]),
        helper.make_node("Mul", ["mean", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "held"], ["score"]),
        helper.make_node("Unsqueeze", ["score", "zero"], ["new"]), helper.make_node("Tanh", ["new"], ["squashed"]),
        helper.make_node("Concat", ["squashed", "new"], ["state_out"], axis=0),
    ]  # fmt: skip
    inputs = {
        "audio": (TensorProto.FLOAT, [samples, 48]), "state": (TensorProto.FLOAT, [2, samples, 6]),
        "rate": (TensorProto.INT64, []), "unread": (TensorProto.FLOAT, [samples, "any"]),
    }  # fmt: skip
    return build(nodes, stored, inputs, {"score": [samples, 6], "state_out": [2, samples, 6]})


def flagged(flag: Sequence[int] = (1,)) -> onnx.ModelProto:
    """Build conv1 to conv3 over images [N, 3, H, W] that a gain of one number multiplies."""
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3), "w3": weights(3, 6, 12, 3, 3)}
    stored["flat"] = np.array([1])
    nodes = [
        helper.make_node("Reshape", ["gain", "flat"], ["g"]), helper.make_node("Mul", ["x", "g"], ["louder"]),
        conv("conv1", "louder", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "y"),
    ]  # fmt: skip
    inputs = {"x": (TensorProto.FLOAT, ["N", 3, "H", "W"]), "gain": (TensorProto.FLOAT, flag)}
    return build(nodes, stored, inputs, {"y": ["N", 6, "H", "W"]})


def time_major(length: Any, samples: Any) -> onnx.ModelProto:
    """Build conv1 to conv3 over features [T, N, 16] with the time in front; the output is [T, N, 6]."""
    stored = {"w1": weights(1, 8, 16, 5), "w2": weights(2, 12, 8, 3), "w3": weights(3, 6, 12, 3)}
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 2, 0]),
        conv("conv1", "t", "w1", "c1", pads=[2, 2]), relu("c1", "r1"),
        conv("conv2", "r1", "w2", "c2", pads=[1, 1]), relu("c2", "r2"), conv("conv3", "r2", "w3", "c3", pads=[1, 1]),
        helper.make_node("Transpose", ["c3"], ["y"], perm=[2, 0, 1]),
    ]  # fmt: skip
    inputs = {"x": (TensorProto.FLOAT, [length, samples, 16])}
    return build(nodes, stored, inputs, {"y": [length, samples, 6]})


def lines() -> onnx.ModelProto:
    """Build conv1 to conv3 over lines of text [N, 3, 8, W] of any width; the output is [N, W, 6]."""
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3), "w3": weights(3, 6, 12, 3, 3)}
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        conv("conv3", "r2", "w3", "c3"), helper.make_node("ReduceMean", ["c3"], ["m"], axes=[2], keepdims=0),
        helper.make_node("Transpose", ["m"], ["y"], perm=[0, 2, 1]),
    ]  # fmt: skip
    return build(nodes, stored, {"x": (TensorProto.FLOAT, ["N", 3, 8, "W"])}, {"y": ["N", "W", 6]})


def ladder() -> onnx.ModelProto:
    """Build conv1 to conv3 with a pooling and its inverse between them, which takes lines of even widths alone."""
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 8, 3, 3), "w3": weights(3, 6, 8, 3, 3)}
    stored["scales"] = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"),
        helper.make_node("MaxPool", ["r1"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("conv2", "p", "w2", "c2"), relu("c2", "r2"),
        helper.make_node("Resize", ["r2", "", "scales"], ["large"]), helper.make_node("Add", ["large", "r1"], ["sum"]),
        conv("conv3", "sum", "w3", "y"),
    ]  # fmt: skip
    return build(nodes, stored, {"x": (TensorProto.FLOAT, ["N", 3, 8, "W"])}, {"y": ["N", 6, 8, "W"]})


def traced(kind: str) -> onnx.ModelProto:
    """Build conv1 to conv3 over images [N, 3, 8, 8] with the batch of the export inside.

    The kinds: "fails", "mixes" and "flattens" reshape to a batch of 1; "normalises" divides by a mean over the batch;
    "broadcasts" adds a constant of batch 1, which takes any number of samples.
    """
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3), "w3": weights(3, 6, 12, 3, 3)}
    shapes = {"fails": [1, 2, 6, 8, 8], "back": [1, 12, 8, 8], "mixes": [1, 6, -1], "flattens": [1, -1]}
    stored |= {name: np.array(shape) for name, shape in shapes.items()} | {"grid": weights(4, 1, 6, 8, 8)}
    middle = {
        "fails": [helper.make_node("Reshape", ["r2", "fails"], ["s"]),
                  helper.make_node("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3, 4]),
                  helper.make_node("Reshape", ["t", "back"], ["m"])],
        "normalises": [helper.make_node("ReduceMean", ["r2"], ["mean"], axes=[0, 2, 3]),
                       helper.make_node("Sub", ["r2", "mean"], ["m"])],
    }.get(kind, [helper.make_node("Identity", ["r2"], ["m"])])  # fmt: skip
    end = {
        "mixes": helper.make_node("Reshape", ["c3", "mixes"], ["y"]),
        "flattens": helper.make_node("Reshape", ["c3", "flattens"], ["y"]),
        "broadcasts": helper.make_node("Add", ["c3", "grid"], ["y"]),
    }.get(kind, helper.make_node("Identity", ["c3"], ["y"]))
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"), *middle,
        conv("conv3", "m", "w3", "c3"), end,
    ]  # fmt: skip
    declared = {"mixes": ["N", 6, "A"], "flattens": ["N", "A"]}.get(kind, ["N", 6, 8, 8])
    return build(nodes, stored, {"x": (TensorProto.FLOAT, ["N", 3, 8, 8])}, {"y": declared})


def voices(count: int, rates: Sequence[int] = (16000,)) -> list[Inputs]:
    """Return what ``voice`` takes in so many runs of one sample."""
    audio, states = photo(1, (count, 1, 48)), 0.3 * photo(2, (count, 2, 1, 6))
    return [
        {"audio": audio[i], "state": states[i], "rate": np.array(rates[i % len(rates)], np.int64)} for i in range(count)
    ]


def stacked(samples: Sequence[Inputs]) -> Inputs:
    """Return what is fed in all runs, in front of the dimensions of each input."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def as_zoo(samples: Sequence[Inputs], folder: Path) -> Path:
    """Store samples as the ONNX model zoo does."""
    for number, sample in enumerate(samples):
        (folder / f"test_data_set_{number}").mkdir(parents=True)
        for place, (name, value) in enumerate(sample.items()):
            data = numpy_helper.from_array(value, name).SerializeToString()
            (folder / f"test_data_set_{number}" / f"input_{place}.pb").write_bytes(data)
    return folder


def as_folder(arrays: Sequence[Array], folder: Path) -> Path:
    """Store every array as a file."""
    folder.mkdir(exist_ok=True)
    for number, array in enumerate(arrays):
        np.save(folder / f"{number:03}.npy", array)
    return folder


class Reader:
    """A CalibrationDataReader."""

    def __init__(self, samples: Sequence[Inputs]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Inputs | None:
        return next(self._left, None)


Store = Callable[[Sequence[Inputs], Path], object]


def as_npz(arrays: Inputs, folder: Path) -> Path:
    """Store arrays by name."""
    np.savez(folder / "samples.npz", **arrays)  # type: ignore[arg-type]
    return folder / "samples.npz"
