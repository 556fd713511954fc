"""Shapes of inputs as users write them, and inputs that are made up for the stopwatch."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.inputshapes import parse_input_shapes, with_shapes
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.madeinput import batch_of, made_input

FLOAT = np.dtype(np.float32)
IMAGE = TensorSpec("x", FLOAT, ("N", 3, None, None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:1x3x224x224", {"x": (1, 3, 224, 224)}),  # trtexec
        ("x:1,3,224,224", {"x": (1, 3, 224, 224)}),  # onnxsim
        ("x:[1,3,224,224]", {"x": (1, 3, 224, 224)}),  # polygraphy
        ("1x3x224x224", {"": (1, 3, 224, 224)}),
        ("[1, 3, 224, 224]", {"": (1, 3, 224, 224)}),
        ("input:0:1x8", {"input:0": (1, 8)}),
        ("a:1x3,b:2", {"a": (1, 3), "b": (2,)}),
        ("a:1,3,b:2,4", {"a": (1, 3), "b": (2, 4)}),
        ("a:[1,3],b:0:[2, 4]", {"a": (1, 3), "b:0": (2, 4)}),
        ("a:1x3 b:2; c:7", {"a": (1, 3), "b": (2,), "c": (7,)}),
        ("a:1,3 b:2,4;c:7,8", {"a": (1, 3), "b": (2, 4), "c": (7, 8)}),
    ],
)
def test_three_spellings_of_shapes(text: str, expected: dict[str, tuple[int, ...]]) -> None:
    assert parse_input_shapes(text) == expected


@given(
    st.dictionaries(
        st.sampled_from(["x", "x2", "input:0", "a/b.c", "1", "image_x", "x:1x2", "Größe"]),
        st.lists(st.integers(1, 999), min_size=1, max_size=5).map(tuple),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["x", ","]),
    st.sampled_from([",", ", ", " ", ";", "; "]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_what_is_written_is_read(
    shapes: dict[str, tuple[int, ...]], between: str, separator: str, brackets: bool
) -> None:
    pieces = [(name, between.join(map(str, shape))) for name, shape in shapes.items()]
    text = separator.join(f"{name}:[{sides}]" if brackets else f"{name}:{sides}" for name, sides in pieces)
    assert parse_input_shapes(text) == shapes


@pytest.mark.parametrize(
    "text", ["", " ", "x", "x:", "x:1x", "x:0x3", "x:-1x3", "x:1.5", "x:1xNx3", "x:(1,3)", "x:[1,3"]
)
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--input-shapes"):
        parse_input_shapes(text)


def test_an_input_that_is_named_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="names 'x' twice"):
        parse_input_shapes("x:1,x:2")


def test_shapes_fill_what_the_model_leaves_open_and_nothing_else() -> None:
    (found,) = with_shapes([IMAGE], {"x": (2, 3, 8, 9)}, "net.onnx")
    assert (found.name, found.dtype, found.shape) == ("x", FLOAT, (2, 3, 8, 9))
    assert with_shapes([IMAGE], {"": (2, 3, 8, 9)}, "net.onnx") == (found,)
    assert with_shapes([IMAGE], {"other": (1,)}, "net.onnx") == (IMAGE,)
    assert with_shapes([TensorSpec("x", FLOAT, None)], {"x": (2,)}, "net.onnx")[0].shape == (2,)
    for wrong in ((2, 4, 8, 9), (2, 3, 8)):
        with pytest.raises(UsageError, match=r"gives 'x' .*; net.onnx takes Nx3x\?x\?"):
            with_shapes([IMAGE], {"x": wrong}, "net.onnx")
    with pytest.raises(UsageError, match=r"net.onnx has the inputs x, y"):
        with_shapes([IMAGE, TensorSpec("y", FLOAT, (1,))], {"": (1,)}, "net.onnx")


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_, ml_dtypes.bfloat16]
)
def test_made_up_inputs_have_the_type_and_shape_of_the_model(dtype: type) -> None:
    spec = TensorSpec("x", np.dtype(dtype), ("N", 3, "N", 5))
    made = made_input([spec], 4, 0, "net.onnx")["x"]
    assert made.dtype == spec.dtype and made.shape == (4, 3, 4, 5)
    assert len(np.unique(made)) > 1
    assert (made == made_input([spec], 4, 0, "net.onnx")["x"]).all()
    assert (made != made_input([spec], 4, 1, "net.onnx")["x"]).any()


def test_whole_numbers_are_small_so_that_they_index_anything() -> None:
    made = made_input([TensorSpec("ids", np.dtype(np.int64), ("N", 100))], 2, 0, "net.onnx")["ids"]
    assert set(np.unique(made)) == {0, 1}


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        (IMAGE, r"takes 'x' of any size \(Nx3x\?x\?\): give --input-shapes"),
        (TensorSpec("x", FLOAT, None), "does not say the shape"),
        (TensorSpec("x", np.dtype(object), (1,)), "no tensor of numbers"),
    ],
)
def test_what_cannot_be_made_up_is_refused(spec: TensorSpec, what: str) -> None:
    with pytest.raises(DataError, match=what) as caught:
        made_input([spec], 1, 0, "net.onnx")
    assert "net.onnx" in str(caught.value)


def test_the_batch_that_a_model_demands() -> None:
    assert batch_of([IMAGE]) is None
    assert batch_of([TensorSpec("x", FLOAT, (4, 3))]) == 4
    assert batch_of([TensorSpec("scale", FLOAT, ()), TensorSpec("x", FLOAT, (4, 3))]) == 4
    assert batch_of([IMAGE, TensorSpec("size", FLOAT, (2,))]) is None
    assert batch_of([TensorSpec("x", FLOAT, None)]) is None
