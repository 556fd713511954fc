"""Samples from CalibrationDataReaders, generators and data loaders."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import TensorSpec

ONE = (TensorSpec("x", np.dtype(np.float32), ("N", 2)),)
TWO = (*ONE, TensorSpec("z", np.dtype(np.float32), ("N", 1)))


class Reader:
    """A reader for ONNX Runtime's quantiser: batches by name, None at the end, one buffer that is filled each time."""

    def __init__(self, batches: int, rows: int) -> None:
        self.left, self.rows, self.given = batches, rows, 0
        self.buffer = np.empty((rows, 2), np.float32)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        if not self.left:
            return None
        self.left -= 1
        self.buffer[:] = np.arange(self.given, self.given + self.rows)[:, None]
        self.given += self.rows
        return {"x": self.buffer}


def opened(data: object, specs: tuple[TensorSpec, ...] = ONE, count: int = 10, seed: int = 0) -> Source:
    return open_source(data, specs, preprocess=PRESETS["raw"], count=count, seed=seed, on_warning=lambda text: None)


def numbers(source: Source) -> list[float]:
    values: list[float] = sorted(source.feeds(range(len(source)))["x"][:, 0].tolist())
    return values


def test_a_reader_is_read_to_its_end() -> None:
    source = opened(Reader(3, 2))
    assert numbers(source) == [0, 1, 2, 3, 4, 5]
    assert source.description == "6 samples from a Reader" and not source.synthetic


def test_a_reader_is_read_no_further_than_needed() -> None:
    reader = Reader(100, 4)
    assert numbers(opened(reader)) == list(range(10))
    assert reader.given == 12


def test_the_samples_can_be_read_again() -> None:
    source = opened(Reader(3, 2))
    np.testing.assert_array_equal(source.feeds([1, 4])["x"], source.feeds([1, 4])["x"])


def test_the_order_is_seeded() -> None:
    orders = [opened(Reader(5, 2), seed=seed).feeds(range(10))["x"].tobytes() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_an_endless_generator_ends_at_the_count() -> None:
    def endless() -> Iterator[dict[str, NDArray[Any]]]:
        number = 0
        while True:
            yield {"x": np.full((3, 2), number, np.float32), "unused": np.zeros(1)}
            number += 1

    assert numbers(opened(endless())) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    "batches",
    [
        [np.zeros((2, 2), np.float32), np.ones((1, 2), np.float32)],
        [(np.zeros((2, 2), np.float32), np.array([7, 8])), [np.ones((1, 2), np.float32), np.array([9])]],
        [np.zeros(2, np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)],
        [[[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0]]],
    ],
    ids=["arrays", "inputs with labels", "samples without batch axis", "lists"],
)
def test_one_input_takes_plain_batches(batches: list[Any]) -> None:
    assert numbers(opened(iter(batches))) == [0, 0, 1]


@pytest.mark.parametrize(
    ("batches", "specs", "message"),
    [
        ([], ONE, "gave no samples"),
        ([{"y2": np.zeros((2, 3, 4))}], ONE, "batch 0 from a list holds y2 (2x3x4), but the model has the inputs x"),
        ([{"x": np.zeros((1, 2))}, {"x": np.zeros((1, 3))}], ONE, "batch 1 from a list, array 'x' has shape 1x3"),
        ([{"x": np.full((1, 2), np.nan)}], ONE, "batch 0 from a list, sample 0 holds NaN"),
        ([np.zeros((1, 2))], TWO, "has the type ndarray, but the model has the inputs x, z"),
        ([{"x": np.zeros((1, 2))}], TWO, "batch 0 from a list holds x (1x2), but the model has the inputs x, z"),
        (["photo.jpg"], ONE, "is text, not numbers"),
        ([[[1.0], [1.0, 2.0]]], ONE, "cannot be read as an array"),
    ],
)
def test_an_unfit_batch_is_named(batches: list[Any], specs: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(DataError) as refusal:
        opened(batches, specs)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_spent_reader_is_named() -> None:
    reader = Reader(1, 1)
    opened(reader)
    with pytest.raises(DataError, match="a Reader gave no samples: give a fresh one"):
        opened(reader)


def test_a_value_that_holds_no_data_is_refused() -> None:
    with pytest.raises(UsageError, match="type int are not supported: give a path, an array"):
        opened(3)


def test_a_meaningless_count_does_not_touch_the_stream() -> None:
    reader = Reader(3, 2)
    with pytest.raises(UsageError, match="0 calibration samples"):
        opened(reader, count=0)
    assert reader.given == 0
