"""Labelled samples from files and from folders."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import ignore

SPECS = (TensorSpec("x", np.dtype(np.float32), ("N", 3, 4, 4)),)
DATA = np.broadcast_to(np.arange(20, dtype=np.float32)[:, None, None, None], (20, 3, 4, 4))


def loaded(path: Path, warn: Callable[[str], None] = ignore) -> tuple[Source, NDArray[np.int64]]:
    return load_labelled(path, SPECS, PRESETS["raw"], on_warning=warn)


def numbers(source: Source) -> NDArray[Any]:
    values: NDArray[Any] = source.feeds(range(len(source)))["x"][:, 0, 0, 0]
    return values


@pytest.mark.parametrize("key", ["labels", "label", "y"])
def test_an_npz_with_labels(tmp_path: Path, key: str) -> None:
    stored: dict[str, Any] = {"images": DATA, key: np.arange(20, dtype=np.uint8)[:, None]}
    np.savez(tmp_path / "test.npz", **stored)
    source, labels = loaded(tmp_path / "test.npz")
    assert labels.dtype == np.int64 and labels.tolist() == numbers(source).tolist() == list(range(20))
    assert source.description == "20 labelled samples in test.npz"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds x, but no labels"),
        ({"y": np.arange(19)}, "not one class number"),
        ({"y": np.eye(20)}, "not one class number"),
        ({"y": np.zeros(20)}, "not one class number"),
        ({"y": np.full(20, -1)}, "class numbers start at 0"),
        ({"y": np.array(["cat"] * 20, object)}, "Python objects"),
    ],
)
def test_unfit_labels_are_refused(tmp_path: Path, arrays: dict[str, NDArray[Any]], message: str) -> None:
    stored: dict[str, Any] = {"x": DATA, **arrays}
    np.savez(tmp_path / "test.npz", **stored)
    with pytest.raises(DataError, match=message):
        loaded(tmp_path / "test.npz")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(20):
        path = tmp_path / "test" / f"class{number % 3}" / "more" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    return tmp_path / "test"


def test_folders_are_classes_in_sorted_order(folder: Path) -> None:
    (folder / "class10").mkdir()  # without photos, but a class: it comes second
    source, labels = loaded(folder)
    np.testing.assert_array_equal(labels, np.array([0, 1, 3])[numbers(source).astype(int) % 3])
    assert (np.diff(labels) >= 0).all()
    assert source.description == "20 images in test (preset raw)"


def test_broken_photos_are_left_out_with_their_labels(folder: Path) -> None:
    (folder / "class1" / "more" / "4.png").write_bytes(b"")
    warnings: list[str] = []
    source, labels = loaded(folder, warnings.append)
    assert len(source) == len(labels) == 19 and len(warnings) == 1
    np.testing.assert_array_equal(labels, numbers(source) % 3)


def test_photos_in_no_class_folder_are_counted_in_one_warning(folder: Path) -> None:
    warnings = list[str]()
    before, labels = loaded(folder)
    photo = next(path for path in folder.rglob("*") if path.is_file())
    for name in ("a", "b"):
        shutil.copy(photo, folder / f"{name}{photo.suffix}")
    source, same = loaded(folder, warnings.append)
    assert len(source) == len(before) and same.tolist() == labels.tolist()
    assert warnings == [f"2 photos directly in {folder} left out: they are in no class folder"]


def test_numbered_classes_in_text_order_are_pointed_out(folder: Path) -> None:
    for old, new in (("class0", "0"), ("class1", "10"), ("class2", "2")):
        (folder / old).rename(folder / new)
    warnings: list[str] = []
    source, labels = loaded(folder, warnings.append)
    np.testing.assert_array_equal(labels, numbers(source) % 3)
    assert len(warnings) == 1 and "(0, 10, 2, ...)" in warnings[0]


def test_paths_without_labels_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in sub-folders"):
        loaded(folder / "class0" / "more")
    for path in (tmp_path / "nowhere", folder / "class0" / "more" / "0.png"):
        with pytest.raises(DataError, match=r"neither an \.npz with labels nor a folder"):
            loaded(path)
