"""Weights in files beside the model: every way in which a location may lead to a file, and what becomes of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from data_layouts import (
    READ,
    REFUSED,
    Layout,
    beside,
    chain_of_links_into_the_cache,
    cut_short,
    file_cache,
    model_behind_a_link_with_data_beside_the_target,
    pointer,
    up_and_back,
)
from models_for_tests import photo, plain, run_model, three_convs
from onnx import numpy_helper

from onnx_lowrank import compress
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.files.load import load, weights_files


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "root").mkdir()
    yield tmp_path / "root"


@pytest.mark.parametrize("layout", READ, ids=lambda layout: layout.__name__)
def test_what_onnx_runtime_reads_is_read(layout: Layout, root: Path) -> None:
    path = layout(root)
    onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    loaded = load(path)
    assert loaded.external_data
    assert not loaded.proto.graph.initializer[0].external_data
    np.testing.assert_array_equal(run_model(loaded.proto, {"x": photo()})["y"], run_model(plain(), {"x": photo()})["y"])


def test_the_data_of_a_linked_model_may_lie_beside_the_file_that_the_link_leads_to(root: Path) -> None:
    loaded = load(model_behind_a_link_with_data_beside_the_target(root))
    np.testing.assert_array_equal(run_model(loaded.proto, {"x": photo()})["y"], run_model(plain(), {"x": photo()})["y"])


@pytest.mark.parametrize("layout", REFUSED, ids=lambda layout: layout.__name__)
def test_what_leads_elsewhere_is_refused_and_never_read(layout: Layout, root: Path) -> None:
    path = layout(root)
    with pytest.raises(ModelError) as caught:
        load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: its external data cannot be read (")
    assert REFUSED[layout] in text
    assert "\n" not in text


REFUSED_BY_BOTH = [layout for layout in REFUSED if layout not in (up_and_back, cut_short, pointer)]
"""Sorted as they are written: tests that run in several processes need one order."""


@pytest.mark.parametrize("layout", REFUSED_BY_BOTH, ids=lambda layout: layout.__name__)
def test_onnx_runtime_refuses_that_as_well(layout: Layout, root: Path) -> None:
    path = layout(root)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match=r"."):  # its exceptions share no base class
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    ("key", "value"),
    [("offset", "-1"), ("offset", "x"), ("length", "-5"), ("length", str(10**18)), ("offset", "1" * 30)],
)
def test_numbers_that_no_file_has_are_refused(key: str, value: str, root: Path) -> None:
    path = beside(root)
    proto = onnx.load(path, load_external_data=False)
    entry = next(entry for entry in proto.graph.initializer[0].external_data if entry.key == key)
    entry.value = value
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="cannot be read"):
        load(path)


@pytest.mark.parametrize(
    "layout", [beside, file_cache, chain_of_links_into_the_cache], ids=lambda layout: layout.__name__
)
def test_the_files_that_must_not_be_replaced_are_known(layout: Layout, root: Path) -> None:
    path = layout(root)
    (data,) = weights_files(path)
    before = data.read_bytes()
    assert data.is_file()
    assert not data.is_symlink()
    assert len(before) == sum(numpy_helper.to_array(tensor).nbytes for tensor in plain().graph.initializer)


def test_a_model_in_a_file_cache_is_compressed_and_the_cache_stays_as_it_was(root: Path) -> None:
    path = file_cache(root)
    onnx.save(
        three_convs(), root / "blobs" / "11aa", save_as_external_data=True, location="model.onnx_data", size_threshold=0
    )
    (root / "blobs" / "model.onnx_data").replace(root / "blobs" / "22bb")
    before = {file: file.read_bytes() for file in (root / "blobs").iterdir()}
    result = compress(path, photo(shape=(12, 3, 12, 10)), speedup=1.5, images=12, require="none")
    result.save(root / "out.onnx")
    assert sorted(file.name for file in root.iterdir()) == ["blobs", "out.onnx", "out.onnx.data", "snapshots"]
    assert {file: file.read_bytes() for file in (root / "blobs").iterdir()} == before
    onnx.checker.check_model(str(root / "out.onnx"))
