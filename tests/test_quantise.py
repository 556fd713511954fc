"""Runs that round a network to 8 bits, alone and together with low rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integers_for_tests import answers, fused_operators
from models_for_tests import HEADS, branches, build, classifier, conv, plain, relu, residual, weights
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from random_graphs import RandomModel, quick, random_block_models

from onnx_lowrank import compress
from onnx_lowrank.errors import TargetError, UsageError
from onnx_lowrank.latency.in_integers import IntegerGain
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import compress as run_pipeline
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages.request import Request

Array = NDArray[Any]


def samples(seed: int, count: int = 60) -> Array:
    """Return smooth pictures [count, 3, 16, 16], as photos are smooth."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 3, 4, 4)).repeat(4, axis=2).repeat(4, axis=3)
    return np.asarray(coarse + 0.3 * rng.normal(size=(count, 3, 16, 16)), np.float32)


def error(model: onnx.ModelProto, original: onnx.ModelProto) -> float:
    """Return the relative error of all outputs on samples that no calibration has seen."""
    feeds = {"x": samples(1)}
    expected, got = answers(original, feeds), answers(model, feeds)
    errors = [np.square(got[name] - value).sum() / np.square(value).sum() for name, value in expected.items()]
    return float(np.mean(errors))


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Gives ONNX Runtime's own quantiser the samples one by one."""

    def __init__(self) -> None:
        self._samples: Iterator[Array] = iter(samples(0)[:, None])

    def get_next(self) -> dict[str, Array] | None:
        """Return the next sample."""
        sample = next(self._samples, None)
        return None if sample is None else {"x": sample}


@pytest.mark.parametrize("model", [plain(), residual(), branches()])
def test_rounding_alone_loses_no_more_than_onnx_runtimes_own_tool(model: onnx.ModelProto, tmp_path: Path) -> None:
    result = compress(model, samples(0), speedup=1, quantize="int8")
    onnx.save(model, tmp_path / "model.onnx")
    quantize_static(
        tmp_path / "model.onnx",
        tmp_path / "other.onnx",
        Reader(),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    assert error(result.model, model) <= error(onnx.load(tmp_path / "other.onnx"), model)
    assert result.report.macs.speedup == 1
    assert not result.report.sites or all(site.kept for site in result.report.sites)


def test_low_rank_and_integers_lose_little_more_than_low_rank() -> None:
    model = residual()
    exact = compress(model, samples(0), speedup=2, require="none", width="none", rank_multiple=1)
    both = compress(model, samples(0), speedup=2, require="none", width="none", rank_multiple=1, quantize="int8")
    assert both.report.macs == exact.report.macs
    assert error(both.model, model) < error(exact.model, model) + 0.01
    operators = fused_operators(both.model)
    assert operators["QLinearConv"] > 2 * operators["Conv"]
    integers = both.report.integers
    assert integers is not None
    assert set(integers.alternatives) == {"low rank", "int8"}


def test_layers_that_are_excluded_stay_in_floating_point() -> None:
    result = compress(residual(), samples(0), speedup=1, quantize="int8", exclude="conv2")
    integers = result.report.integers
    assert integers is not None
    assert [left.name for left in integers.left if "--exclude" in left.reason] == ["conv2"]
    makers = {name: node.op_type for node in result.model.graph.node for name in node.output}
    (layer,) = (node for node in result.model.graph.node if node.name == "conv2")
    assert makers.get(layer.input[1]) is None


def test_scores_that_share_a_tensor_with_boxes_stay_in_floating_point() -> None:
    """On one grid with coordinates of hundreds of pixels, a score from 0 to 1 would be 0 or 1."""
    stored = {
        "w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 8, 8, 3, 3), "ws": weights(3, 1, 8, 1, 1),
        "wb": 300 * weights(4, 4, 8, 1, 1),
    }  # fmt: skip
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"), relu("c2", "r2"),
        conv("scores", "r2", "ws", "s", pads=[0] * 4), helper.make_node("Sigmoid", ["s"], ["p"]),
        conv("boxes", "r2", "wb", "b", pads=[0] * 4), helper.make_node("Concat", ["p", "b"], ["y"], axis=1),
    ]  # fmt: skip
    model = build(nodes, stored)
    result = compress(model, samples(0), speedup=1, quantize="int8")
    feeds = {"x": samples(1)}
    expected, got = answers(model, feeds)["y"][:, 0], answers(result.model, feeds)["y"][:, 0]
    assert np.square(got - expected).sum() < 0.01 * np.square(expected - expected.mean()).sum()


@pytest.mark.parametrize(("preset", "kinds"), [("tensorrt-int8", {"int8"}), ("openvino", {"uint8", "int8"})])
def test_a_preset_decides_the_integers(preset: str, kinds: set[str]) -> None:
    result = compress(residual(), samples(0), speedup=1, quantize="int8", preset=preset)
    seen = {
        onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        for tensor in result.model.graph.initializer
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32)
    }
    assert seen == kinds
    assert error(result.model, residual()) < 0.01


def test_the_result_does_not_depend_on_the_number_of_shards() -> None:
    request = Request(residual(), samples(0), Options(speedup=1, quantize="int8"))
    one, three = (run_pipeline(request, shards=count).model.SerializeToString() for count in (1, 3))
    assert one == three


def test_a_quality_and_integers_are_not_sought_together() -> None:
    for wish in ({"keep": "error=0.1"}, {"curve": True}):
        with pytest.raises(UsageError, match="quantize"):
            compress(residual(), samples(0), quantize="int8", **wish)


def by_the_clock(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    """Let integers seem to be three times as fast before the run, and the result so many times as fast at its end."""
    latency = Latency(1.0, 1 / ratio, ratio, ratio, ratio, 0.95, 5, 1, fresh_process=True)
    monkeypatch.setattr(IntegerGain, "measured", classmethod(lambda cls, model, feeds, options: cls(3.0, 2.0)))
    monkeypatch.setattr("onnx_lowrank.stages.measure.measure_latency", lambda models, *others: (latency,))


def test_by_the_clock_integers_alone_may_be_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are as fast as was asked for, no layer is touched."""
    by_the_clock(monkeypatch, 2.5)
    result = compress(residual(), samples(0), speedup=2, target="latency", quantize="int8", require="none")
    assert all(site.form is None for site in result.report.sites)
    assert result.report.integers is not None


def test_integers_that_are_slower_are_refused_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    by_the_clock(monkeypatch, 0.8)
    with pytest.raises(TargetError, match="nothing was written"):
        compress(residual(), samples(0), speedup=2, target="latency", quantize="int8", require="none")


def test_by_the_clock_layers_are_timed_in_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What integers give is not planned again, and the stopwatch sees no layer in floating point."""
    monkeypatch.setattr(IntegerGain, "measured", classmethod(lambda cls, model, feeds, options: cls(2.0, 2.5)))
    opened: list[set[str]] = []

    def open_and_note(providers: Any, threads: int, *, spinning: bool) -> Any:
        open_session = opener(providers, threads, spinning=spinning)

        def note(model: Any, label: str) -> Any:
            proto = onnx.ModelProto.FromString(model) if isinstance(model, bytes) else model
            opened.append({node.op_type for node in proto.graph.node})
            return open_session(model, label)

        return note

    monkeypatch.setattr("onnx_lowrank.latency.deployment.opener", open_and_note)
    asked: list[float] = []

    def refuse(clocked: Any, kinds: Any) -> None:
        asked.append(clocked.deployment.options.speedup)
        raise TargetError("out of reach")

    monkeypatch.setattr("onnx_lowrank.stages.reach.check_latency_reach", refuse)
    monkeypatch.setattr("onnx_lowrank.stages.reach.hidden_sets", lambda run, read, counted: ())
    with pytest.raises(TargetError, match=r"2\.00 times as fast"):
        compress(residual(), samples(0), speedup=2.5, target="latency", quantize="int8", threads=1)
    assert asked == [1.25]
    assert all("QuantizeLinear" in operators for operators in opened if "Conv" in operators)
    assert len(opened) > 3


@pytest.mark.parametrize("head", HEADS)
def test_fully_connected_layers_are_rounded_however_they_are_written(head: str) -> None:
    model = classifier(head)
    result = compress(model, samples(0), speedup=1, quantize="int8")
    assert error(result.model, model) < 1e-3


@quick(8)
@given(random_block_models(), st.sampled_from([None, "tensorrt-int8", "openvino"]))
def test_random_networks_are_rounded(case: RandomModel, preset: str | None) -> None:
    """Whatever they consist of; the run itself checks that the result is valid and keeps its interface."""
    result = compress(case.model, case.data, speedup=1, quantize="int8", preset=preset, require="none", images=20)
    assert result.report.integers is not None
