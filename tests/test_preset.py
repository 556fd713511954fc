"""A wrong preset is noticed before the result is written, and the right one raises no warning."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import build, conv, relu, run_model, weights
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from onnx_lowrank import compress
from onnx_lowrank.calibration.channel_moments import divergence, moments
from onnx_lowrank.calibration.class_contrast import clarity
from onnx_lowrank.cli.compress import main
from onnx_lowrank.data.photos.alternatives import alike, alternatives, carried, held_by
from onnx_lowrank.data.photos.image_input import image_input
from onnx_lowrank.data.photos.preprocess import PRESETS, parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import load
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import Options
from onnx_lowrank.report.fit_schema import FitReport
from onnx_lowrank.stages.fit import fit
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample

Array = NDArray[Any]
MODELS = Path(__file__).resolve().parents[1] / "models"
MNIST = MODELS / "mnist_vgg.onnx"
COLOUR = TensorSpec("x", np.dtype(np.float32), ("N", 3, 8, 8))
WRONG = ("imagenet", "caffe", "signed", "raw", "mean=255,scale=-0.00392")
FEW = 24


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of digits as PNG files."""
    folder = tmp_path_factory.mktemp("digits")
    pixels = (np.load(MODELS / "mnist_calib.npz")["input"][:FEW, 0] * 255).round().astype(np.uint8)
    for number, digit in enumerate(pixels):
        Image.fromarray(digit).save(folder / f"{number:02}.png")
    return folder


def without_norms() -> onnx.ModelProto:
    """Return the embedded model with its normalisations folded, as most exports come."""
    return whole(normalise(load(MNIST).proto), ["logits"])


def warned(report: Any) -> list[str]:
    return [line for line in report.warnings if "preprocess" in line or "arrays" in line]


def run(model: Any, data: Any, preprocess: str) -> Any:
    return compress(model, data, 1.5, preprocess=preprocess, solver="weights", threads=1, require="none").report


def compared(model: Any, data: Any, preprocess: str) -> tuple[list[str], FitReport]:
    """Return the warnings and the measurements, without compressing anything."""
    run = Run.start(Request(model, data, Options(threads=1), preprocess))
    network = read(run)
    report = fit(run, network, sample(run, network)).report
    return run.warnings, report


@pytest.mark.parametrize("folded", [False, True])
def test_digits_under_each_preset(digits: Path, folded: bool) -> None:
    model = without_norms() if folded else MNIST
    for preprocess in (*WRONG, "unit", "unit,resize=none"):
        lines, report = compared(model, digits, preprocess)
        if preprocess.startswith("unit"):
            assert not lines and not any(each.better for each in report.presets)
            continue
        (line,) = lines
        assert "\n" not in line and "unit fits better" in line and "give --preprocess unit " in line
        by_name = {each.preset: each for each in report.presets}
        assert by_name["unit"].better and all(each.divergence is None for each in by_name.values()) == folded


def test_the_warning_comes_before_the_result(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, report = tmp_path / "out.onnx", tmp_path / "report.json"
    line = [str(MNIST), str(out), "--data", str(digits), "--preprocess", "imagenet", "--speedup", "1.5"]
    assert main([*line, "--solver", "weights", "--require", "agreement=1.0", "--report", str(report)]) == 7
    assert not out.exists() and "unit fits better" in capsys.readouterr().err
    fit = json.loads(report.read_text())["fit"]
    assert fit["inputs"]["input"]["preset"] == "imagenet" and fit["presets"]


@pytest.mark.parametrize("folded", [False, True])
def test_auto_chooses_and_says_what_it_measured(digits: Path, folded: bool) -> None:
    model = without_norms() if folded else MNIST
    chosen, named = run(model, digits, "auto"), run(model, digits, "unit")
    assert not warned(chosen) and chosen.fit.conclusion.startswith("auto chose unit (")
    assert chosen.fit.inputs == named.fit.inputs and chosen.data == named.data
    assert chosen.outputs == named.outputs and chosen.output.sha256 == named.output.sha256


def test_auto_says_where_it_cannot_tell(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / f"{number}.png")
    nodes = [conv("a", "x", "wa", "a"), relu("a", "r"), conv("b", "r", "wb", "y")]
    model = build(nodes, {"wa": weights(1, 16, 3, 3, 3), "wb": weights(2, 16, 16, 3, 3)})
    report = run(model, tmp_path, "auto,resize=12x10,crop=none")
    (line,) = warned(report)
    assert "cannot tell" in line and report.fit.inputs["x"].preset == "imagenet,resize=12x10,crop=none"
    assert not compared(model, tmp_path, "caffe,resize=12x10,crop=none")[0]


@pytest.mark.parametrize(("scale", "offset", "noticed"), [(1, 0, False), (255, 0, True), (2, -1, True)])
def test_arrays_are_compared_but_never_changed(scale: float, offset: float, noticed: bool) -> None:
    arrays = np.load(MODELS / "mnist_calib.npz")["input"][:FEW] * np.float32(scale) + np.float32(offset)
    report = run(MNIST, arrays, "caffe")
    lines = warned(report)
    assert len(lines) == noticed and all("taken as they are" in line and "unit (0 to 1" in line for line in lines)
    (inputs,) = report.fit.inputs.values()
    assert (inputs.source, inputs.preset) == ("arrays", None)
    assert (inputs.low, inputs.high) == (arrays.min(), arrays.max()) and report.options["preprocess"] is None
    if not noticed:
        assert not any(name in report.to_json() for name in ("imagenet", "caffe"))


def colour_network(order: int) -> onnx.ModelProto:
    """Return a network with a normalisation whose statistics come from signed photos in a channel order."""
    kernel = weights(3, 8, 3, 3, 3)
    values = (photos()[..., ::order].transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    first = build([conv("a", "x", "w", "y")], {"w": kernel})
    answer = run_model(first, {"x": values})["y"]
    stored = {"w": kernel, "v": weights(4, 8, 8, 3, 3), "mean": answer.mean((0, 2, 3)), "var": answer.var((0, 2, 3))}
    stored |= {"one": np.ones(8, np.float32), "zero": np.zeros(8, np.float32)}
    norm = helper.make_node("BatchNormalization", ["a", "one", "zero", "mean", "var"], ["n"])
    return build([conv("a", "x", "w", "a"), norm, relu("n", "r"), conv("b", "r", "v", "y")], stored)


def photos() -> Array:
    """Return coloured noise [40, 16, 16, 3], in which red is bright and blue is dark."""
    rng = np.random.default_rng(5)
    coarse = rng.uniform(0, 1, (40, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    pixels: Array = (coarse * np.array([255, 160, 80])).astype(np.uint8)
    return pixels


@pytest.mark.parametrize("order", [1, -1])
def test_normalisations_tell_the_channel_order(tmp_path: Path, order: int) -> None:
    for number, pixels in enumerate(photos()):
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    right, wrong = ("signed", "signed,channels=bgr")[::order]
    model, sizes = colour_network(order), ",resize=16x16,crop=none"
    assert not compared(model, tmp_path, right + sizes)[0]
    (line,), _ = compared(model, tmp_path, wrong + sizes)
    assert f"{right + sizes} fits better" in line


def test_the_parts_of_auto_that_are_chosen_cannot_be_given() -> None:
    assert parse("auto,resize=none").automatic and not parse("unit").automatic
    for text in ("auto,mean=3", "auto,scale=2", "auto,channels=bgr"):
        with pytest.raises(UsageError, match="auto chooses"):
            parse(text)


@given(st.sampled_from(sorted(PRESETS)), st.sampled_from(("rgb", "bgr")), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_samples_carried_to_another_preset_are_those_of_the_photos(name: str, order: str, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, 8, 8, 3), np.uint8)
    held = image_input(COLOUR, parse(f"{name},channels={order}"))
    for other in alternatives(parse("raw"), COLOUR):
        expected = other.target.normalise(pixels)
        np.testing.assert_allclose(carried(held.normalise(pixels), held, other.target), expected, atol=2e-3, rtol=1e-4)


def test_alternatives_differ_and_keep_the_sizes() -> None:
    found = alternatives(parse("mean=127,scale=0.0078125,resize=none"), COLOUR)
    names = [each.name for each in found]
    assert "signed,resize=none" not in names and "unit,channels=bgr,resize=none" in names
    assert all(each.preprocess.resize is None for each in found)
    assert not any(alike(one.target, other.target) for one in found for other in found if one is not other)
    assert all(alike(image_input(COLOUR, parse(each.name)), each.target) for each in found)


@pytest.mark.parametrize(
    ("low", "high", "name"),
    [(0, 1, "unit"), (0, 255, "raw"), (-1, 1, "signed"), (-2, 2.5, "imagenet"), (-110, 140, "caffe"), (-9, 9, None)],
)
def test_the_range_of_arrays_tells_their_preset(low: float, high: float, name: str | None) -> None:
    found = held_by(low, high, COLOUR)
    assert (found.preset if found else None) == name


@given(st.integers(0, 999), st.floats(0.01, 100), st.floats(-50, 50))
@settings(max_examples=30, deadline=None)
def test_clarity_ignores_the_scale_of_scores(seed: int, scale: float, shift: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(12, 10))
    one, other = clarity(scores), clarity(scores * scale + shift)
    np.testing.assert_allclose(other.estimate.value, one.estimate.value, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(other.estimate.without, one.estimate.without, rtol=1e-6, atol=1e-6)
    again = clarity(np.delete(scores, 3, axis=0))
    np.testing.assert_allclose(one.estimate.without[3], again.estimate.value, rtol=1e-9)


@given(st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_divergence_is_that_of_normal_distributions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, mean, variance = rng.normal(size=(6, 4, 5)), rng.normal(size=4), rng.uniform(0.5, 2, 4)
    found = divergence([moments(values)], [(mean, variance)])
    m, floor = values.mean((0, 2)), 0.01 * np.median(variance)
    v, expected = values.var((0, 2)) + floor, variance + floor
    plain = 0.5 * (np.log(expected / v) + (v + (m - mean) ** 2) / expected - 1)
    np.testing.assert_allclose(found.value, plain.mean(), rtol=1e-9)
    own = divergence([moments(values)], [(m, values.var((0, 2)))])
    assert abs(own.value) < 1e-3 and np.all(own.without >= own.value - 1e-9)
