"""Presets set options for a runtime, and advise on what that runtime cannot read."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from models_for_tests import build, conv, photo, relu, run_model, weights
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from onnx_lowrank import compress
from onnx_lowrank.errors import UsageError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import DEFAULTS, PRESET_CHOICES, Options
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.presets import HIGHEST_OPSET, LOWEST_OPSET, PRESET_OPTIONS, advice, with_preset

MODELS = Path(__file__).resolve().parents[1] / "models"

FLOAT = np.dtype(np.float32)
FIXED, OPEN = TensorSpec("x", FLOAT, (1, 3, 8, 8)), TensorSpec("image:0", FLOAT, ("N", 3, None, None))
SHAPES = {"x": (1, 3, 8, 8), "image:0": (1, 3, 12, 10)}


def test_the_presets_are_the_choices_of_the_options() -> None:
    assert tuple(PRESET_OPTIONS) == PRESET_CHOICES
    for name, values in PRESET_OPTIONS.items():
        assert with_preset(Options(preset=name)) == Options(preset=name, **values)
    with pytest.raises(UsageError, match="preset is 'npu': choose one of tensorrt, tensorrt-int8"):
        Options(preset="npu")


def test_a_preset_keeps_options_that_are_not_at_their_default() -> None:
    assert with_preset(DEFAULTS) == DEFAULTS
    assert with_preset(Options(preset="tensorrt", rank_multiple=16)).rank_multiple == 16
    assert with_preset(Options(preset="tensorrt", form="spatial")).form == "spatial"


@pytest.mark.parametrize("opset", [LOWEST_OPSET - 1, HIGHEST_OPSET + 1])
def test_the_advice_names_an_opset_that_tensorrt_does_not_read(opset: int) -> None:
    (message,) = advice("tensorrt", opset, (FIXED,), SHAPES)
    assert f"opset {opset}" in message and "onnx.version_converter" in message


def test_the_advice_writes_open_shapes_as_trtexec_reads_them() -> None:
    (message,) = advice("tensorrt", 17, (FIXED, OPEN), SHAPES)
    assert message.endswith("--optShapes='image:0':1x3x12x10")


def test_there_is_no_advice_for_a_model_that_fits_or_without_a_preset() -> None:
    assert advice("tensorrt-int8", 17, (FIXED,), SHAPES) == []
    assert advice(None, 5, (OPEN,), SHAPES) == []


def test_a_model_for_tensorrt_has_chains_of_two_with_whole_groups_of_channels() -> None:
    stored = {"w1": weights(1, 16, 3, 3, 3), "w2": weights(2, 32, 16, 3, 3), "w3": weights(3, 32, 32, 3, 3)}
    nodes = [conv("c1", "x", "w1", "a"), relu("a", "ra"), conv("c2", "ra", "w2", "b"), relu("b", "rb")]
    model = build([*nodes, conv("c3", "rb", "w3", "y")], stored)
    warnings: list[str] = []
    data = photo(1, (8, 3, 12, 10))
    result = compress(model, data, 2, preset="tensorrt", threads=1, require="none", warn=warnings.append)
    report = result.report
    assert report.options["preset"] == "tensorrt" and report.speedup.macs >= 2
    assert {site.form for site in report.sites} <= {"channel", None}
    ranks = [rank for site in report.sites for rank in site.ranks.values()]
    assert ranks and all(rank % 8 == 0 for rank in ranks)
    kernels = {tensor.name: tuple(tensor.dims) for tensor in result.model.graph.initializer}
    for node in result.model.graph.node:
        if node.op_type == "Conv" and node.input[0] != "x":
            assert all(channels % 8 == 0 for channels in kernels[node.input[1]][:2])
    assert any("--optShapes=x:1x3x12x10" in text for text in report.warnings) and set(report.warnings) <= set(warnings)
    assert result.model.opset_import == model.opset_import


def test_a_given_plan_is_not_changed_by_a_preset() -> None:
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 8, 3, 3)}
    model = build([conv("c1", "x", "w1", "a"), conv("c2", "a", "w2", "y")], stored)
    plan = Plan((SitePlan("c2", "spatial", (3,)),))
    data = photo(1, (6, 3, 12, 10))
    report = compress(model, data, plan=plan, preset="tensorrt", threads=1, require="none").report
    assert [(site.form, site.ranks) for site in report.sites if not site.kept] == [("spatial", {"d''": 3})]


class Samples(CalibrationDataReader):  # type: ignore[misc]
    """Batches for ONNX Runtime's quantiser."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._batches: Iterator[NDArray[np.float32]] = iter(np.split(images, 6))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"input": batch}


def test_compressed_then_quantised_as_tensorrt_wants_it(tmp_path: Path) -> None:
    images = np.load(MODELS / "mnist_calib.npz")["input"][:60].astype(np.float32)
    result = compress(MODELS / "mnist_vgg.onnx", images, 1.5, preset="tensorrt-int8", solver="linear", threads=1)
    assert {rank for site in result.report.sites for rank in site.ranks.values()} == {32}
    result.save(tmp_path / "small.onnx")
    symmetric = {"ActivationSymmetric": True}
    quantize_static(
        tmp_path / "small.onnx",
        tmp_path / "quantised.onnx",
        Samples(images),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        extra_options=symmetric,
    )
    quantised = onnx.load(str(tmp_path / "quantised.onnx"))
    maker = {name: node.op_type for node in quantised.graph.node for name in node.output}
    convolutions = [node for node in quantised.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in result.model.graph.node)
    # Every convolution of a chain reads what was quantised, and has weights that were.
    assert all(maker[name] == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    test = np.load(MODELS / "mnist_test.npz")
    feeds, labels = {"input": test["input"][:500].astype(np.float32)}, test["labels"][:500]
    before, after = (run_model(model, feeds) for model in (result.model, quantised))
    right = [float((next(iter(scores.values())).argmax(axis=1) == labels).mean()) for scores in (before, after)]
    assert right[1] >= right[0] - 0.01
