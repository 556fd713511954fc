"""Inputs that are made up for timing a model."""

import ml_dtypes
import numpy as np
import pytest

from onnx_lowrank.data.synthetic.noise import batch_of, made_input
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

FLOAT = np.dtype(np.float32)
IMAGE = TensorSpec("x", FLOAT, ("N", 3, None, None))


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8, np.bool_, ml_dtypes.bfloat16]
)
def test_made_up_inputs_have_the_type_and_shape_of_the_model(dtype: type) -> None:
    spec = TensorSpec("x", np.dtype(dtype), ("N", 3, "N", 5))
    values = made_input([spec], 4, 0, "net.onnx")["x"]
    assert values.dtype == spec.dtype and values.shape == (4, 3, 4, 5)
    assert len(np.unique(values)) > 1
    assert (values == made_input([spec], 4, 0, "net.onnx")["x"]).all()
    assert (values != made_input([spec], 4, 1, "net.onnx")["x"]).any()


def test_whole_numbers_are_small_so_that_they_index_anything() -> None:
    values = made_input([TensorSpec("ids", np.dtype(np.int64), ("N", 100))], 2, 0, "net.onnx")["ids"]
    assert set(np.unique(values)) == {0, 1}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (IMAGE, r"takes 'x' of any size \(Nx3x\?x\?\): give --input-shapes"),
        (TensorSpec("x", FLOAT, None), "does not state the shape"),
        (TensorSpec("x", np.dtype(object), (1,)), "does not take numbers"),
    ],
)
def test_an_input_for_which_nothing_can_be_made_up_is_named(spec: TensorSpec, message: str) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        made_input([spec], 1, 0, "net.onnx")
    assert "net.onnx" in str(refusal.value)


def test_a_model_demands_a_batch_if_all_its_inputs_fix_one() -> None:
    assert batch_of([IMAGE]) is None
    assert batch_of([TensorSpec("x", FLOAT, (4, 3))]) == 4
    assert batch_of([TensorSpec("scale", FLOAT, ()), TensorSpec("x", FLOAT, (4, 3))]) == 4
    assert batch_of([IMAGE, TensorSpec("size", FLOAT, (2,))]) is None
    assert batch_of([TensorSpec("x", FLOAT, None)]) is None
