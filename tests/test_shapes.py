"""Sizes that the model leaves open: how they are written, what contradicts them, and that the calibration obeys."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import build, conv, photo, plain, relu, weights
from onnx import helper

from onnx_lowrank import compress
from onnx_lowrank.data.input_shapes import parse_shapes, with_shapes
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.data.synthetic.source import open_synthetic
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import Options
from onnx_lowrank.pipeline import plan_only
from onnx_lowrank.stages.request import Request

SINGLE = np.dtype(np.float32)
IMAGE = TensorSpec("x", SINGLE, ("N", 3, "H", None))
ROW = TensorSpec("y", SINGLE, ("N", 10))


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x:1,3,224,224", {"x": (1, 3, 224, 224)}),
        ("x:[1,3,224,224]", {"x": (1, 3, 224, 224)}),
        ("x:[1, 3] y:[2]", {"x": (1, 3), "y": (2,)}),
        ("x:1x3x224x224,y:1x10", {"x": (1, 3, 224, 224), "y": (1, 10)}),
        ("x:1,3,y:1,10", {"x": (1, 3), "y": (1, 10)}),
        ("x:1,3,4195:1,10", {"x": (1, 3), "4195": (1, 10)}),
        ("'input:0':1x3", {"input:0": (1, 3)}),
        ("input:0:1x3", {"input:0": (1, 3)}),
        ("a/b.c:7", {"a/b.c": (7,)}),
        ("1,3,8,8", {"": (1, 3, 8, 8)}),
        ("1x3x8x8", {"": (1, 3, 8, 8)}),
        ("[1,3,8,8]", {"": (1, 3, 8, 8)}),
    ],
)
def test_the_three_ways_to_write_shapes(text: str, shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes([text]) == shapes


@given(
    st.dictionaries(
        st.sampled_from(["x", "x2", "input:0", "a/b.c", "1", "image_x", "x:1x2", "Größe"]),
        st.lists(st.integers(1, 999), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["x", ","]),
    st.sampled_from([",", ", ", " "]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_parsing_inverts_writing(
    shapes: dict[str, tuple[int, ...]], between: str, separator: str, brackets: bool
) -> None:
    between = "," if brackets else between
    pieces = [(name, between.join(map(str, shape))) for name, shape in shapes.items()]
    text = separator.join(f"{name}:[{sides}]" if brackets else f"{name}:{sides}" for name, sides in pieces)
    assert parse_shapes([text]) == shapes


def test_shapes_may_come_one_by_one() -> None:
    assert parse_shapes(["x:1x3", "y:[2]"]) == {"x": (1, 3), "y": (2,)}


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "x:", ":1,3", "x:1,-1", "x:1,?", "x:1,,3", "x:1x3x", "x:1,", "x:[1,3", "x:1.5", "x:" + "9" * 5000],
)
def test_a_text_that_is_not_a_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a shape"):
        parse_shapes([text])


@pytest.mark.parametrize("texts", [["x:1x3,x:2"], ["x:1x3", "x:1x3"], ["1,3", "1,4"]])
def test_an_input_has_one_shape(texts: list[str]) -> None:
    with pytest.raises(UsageError, match="two shapes"):
        parse_shapes(texts)


def test_a_size_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="sizes start at 1"):
        Options(input_shapes={"x": (0, 3)})


def test_open_sizes_are_decided_and_a_symbol_everywhere() -> None:
    image, row = with_shapes((IMAGE, ROW), {"x": (2, 3, 16, 24)})
    assert image.shape == (2, 3, 16, 24) and row.shape == (2, 10)
    assert with_shapes((IMAGE, ROW), {}) == (IMAGE, ROW)
    assert with_shapes((IMAGE,), {"": (2, 3, 16, 24)})[0].shape == (2, 3, 16, 24)
    assert with_shapes((TensorSpec("x", SINGLE, None),), {"x": (2, 5)})[0].shape == (2, 5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 3)}, "no input 'z'; the model has x, y"),
        ({"": (1, 3)}, "which of the inputs x, y"),
        ({"x": (1, 3, 8)}, "has 3 sizes, but input 'x' has 4"),
        ({"x": (1, 4, 8, 8)}, "contradicts the shape N,3,H,? that the model fixes"),
        ({"x": (1, 3, 8, 8), "y": (2, 10)}, "'N' would be both 1 and 2"),
    ],
)
def test_a_shape_that_contradicts_the_model_is_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        with_shapes((IMAGE, ROW), shapes)
    assert message in str(refusal.value)


def tall() -> onnx.ModelProto:
    """Return a model that only takes images 16 pixels high, although it does not state so."""
    stored = {"w1": weights(1, 8, 3, 3, 3), "w2": weights(2, 12, 8, 3, 3), "to": np.array([0, 12 * 16, -1], np.int64)}
    nodes = [
        conv("conv1", "x", "w1", "c1"), relu("c1", "r1"), conv("conv2", "r1", "w2", "c2"),
        helper.make_node("Reshape", ["c2", "to"], ["flat"]), helper.make_node("MatMul", ["one", "flat"], ["y"]),
    ]  # fmt: skip
    stored["one"] = np.ones((1, 12 * 16), np.float32)
    return build(nodes, stored, output_shape=("N", 1, None))


def test_synthetic_images_have_the_given_size() -> None:
    planned = [
        plan_only(
            Request(tall(), options=Options(speedup=1.5, input_shapes={"": (1, 3, 16, width)}, images=8, threads=1))
        )
        for width in (12, 24)
    ]
    before = [plan.macs.conv_before for plan in planned]
    assert before[0] == 16 * 12 * 9 * (3 * 8 + 8 * 12) and before[1] == 2 * before[0]
    model = tall()
    result = compress(model, None, 1.5, input_shapes="x:1x3x16x12", images=8, threads=1)
    assert result.report.options["input_shapes"] == {"x": (1, 3, 16, 12)}
    assert list(result.model.graph.input) == list(model.graph.input)


def test_a_shape_fixes_the_batch_size_as_well() -> None:
    options = Options(speedup=1.5, input_shapes={"": (3, 3, 12, 10)}, threads=1)
    with pytest.raises(DataError, match="batches of 3 samples, but the data hold only 2"):
        plan_only(Request(plain(), photo(1, (2, 3, 12, 10)), options=options))
    assert plan_only(Request(plain(), photo(1, (7, 3, 12, 10)), options=options)).speedup.macs >= 1.5


def test_data_must_have_the_given_size() -> None:
    with pytest.raises(DataError, match="takes Nx3x12x12"):
        compress(plain(), photo(1, (9, 3, 12, 10)), 1.5, input_shapes={"x": (1, 3, 12, 12)}, threads=1)


def test_noise_needs_to_know_its_size() -> None:
    model = build(
        [conv("c", "x", "w", "y", pads=[1, 1])],
        {"w": weights(1, 4, 3, 3)},
        input_shape=("N", 3, "T"),
        output_shape=("N", 4, None),
    )
    open_input = inputs(load(model).proto)
    assert open_input[0].shape == ("N", 3, "T")
    with pytest.raises(DataError, match="--input-shapes"):
        open_synthetic(open_input, PRESETS["imagenet"], count=4, seed=0)
    source = open_synthetic(with_shapes(open_input, {"x": (1, 3, 20)}), PRESETS["imagenet"], count=4, seed=0)
    assert source.feeds([0, 1])["x"].shape == (2, 3, 20)


def test_sizes_named_by_question_marks_are_independent() -> None:
    model = build([relu("x", "y")], {}, input_shape=("N", 3, "?", "?"))
    assert inputs(load(model).proto)[0].shape == ("N", 3, None, None)
