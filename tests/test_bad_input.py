"""Models and data that are wrong, through the command itself: an exit code, one line, and nothing left behind."""

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_for_tests
import numpy as np
import onnx
import pytest
from cli_for_tests import WatchedSamples, contents
from models_for_tests import build, conv, photo, relu, weights
from numpy.typing import NDArray

from onnx_lowrank.cli import compress

Array = NDArray[Any]
MNIST = Path(__file__).resolve().parents[1] / "models" / "mnist_vgg.onnx"
SHAPE = (12, 3, 12, 10)
pytestmark = pytest.mark.usefixtures("good_files")


def save(model: onnx.ModelProto) -> None:
    onnx.save(model, "in.onnx")


def test_what_the_other_tests_spoil_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert compress.main(["in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.5", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert contents().keys() == {"in.onnx", "data.npy", "out.onnx"}


def test_a_model_that_is_missing(refuses: Callable[..., str]) -> None:
    assert "no such file" in refuses(3, "none.onnx", "out.onnx")
    assert "no such file" in refuses(3, "no/folder/none.onnx", "out.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"This is a letter, and no model.\n" * 50,
        b'{"a": "json file"}',
        b"<html><body>404</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 553438000\n",
        b"PK\x03\x04" + b"\0" * 200,
        *(np.random.default_rng(seed).bytes(size) for seed in range(20) for size in (7, 100, 4000)),
    ],
    ids=lambda content: f"{len(content)}:{content[:8]!r}",
)
def test_a_file_that_is_no_model(content: bytes, refuses: Callable[..., str]) -> None:
    Path("in.onnx").write_bytes(content)
    assert "in.onnx" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


OTHER_FORMATS = {
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 553438000\n": "git lfs pull",
    b"/annex/objects/SHA256E-s553438000--0123.onnx\n": "git annex get",
    b"<!DOCTYPE html>\n<html><head><title>404</title></head></html>": "download the file itself",
    b"\n  <HTML><body>Sign in</body></html>": "download the file itself",
    gzip.compress(b"model", mtime=0): "unpack it",
    b"PK\x03\x04" + bytes(200): "export the model to ONNX",
    pickle.dumps({"weights": [1.0]}, protocol=2): "export the model to ONNX",
    b"\x1c\x00\x00\x00TFL3" + bytes(100): "TensorFlow Lite",
    b"\x18\x00\x00\x00ORTM" + bytes(64): "ONNX Runtime's own format",
    (100).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}': "safetensors",
    b"\x89HDF\r\n\x1a\n" + bytes(100): "HDF5",
    b'{"irVersion": 8}': "JSON",
    b"ir_version: 8\ngraph {\n  node {\n": "a model as text",
}
"""Files that are often taken for an ONNX model, and what to do about each."""


@pytest.mark.parametrize("content", OTHER_FORMATS, ids=lambda content: str(content[:12]))
def test_a_file_of_another_format_is_recognised(content: bytes, refuses: Callable[..., str]) -> None:
    Path("in.onnx").write_bytes(content)
    assert OTHER_FORMATS[content] in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


def test_a_pointer_in_place_of_the_weights(refuses: Callable[..., str]) -> None:
    onnx.save(models_for_tests.plain(), "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    Path("w.bin").write_bytes(next(iter(OTHER_FORMATS)))
    assert "git lfs pull" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_model_that_is_cut_short(share: float, refuses: Callable[..., str]) -> None:
    whole = MNIST.read_bytes()
    Path("in.onnx").write_bytes(whole[: int(share * len(whole))])
    assert "in.onnx" in refuses(3, "in.onnx", "out.onnx")


def test_a_folder_as_the_model(refuses: Callable[..., str]) -> None:
    Path("folder").mkdir()
    assert "a folder" in refuses(3, "folder", "out.onnx")


def test_an_external_data_file_that_is_missing(refuses: Callable[..., str]) -> None:
    onnx.save(models_for_tests.plain(), "in.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    Path("w.bin").unlink()
    assert "external data" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


def test_a_model_without_convolutions(refuses: Callable[..., str]) -> None:
    save(build([relu("x", "y")], {}))
    assert "the model has no convolution" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


def test_a_model_with_other_convolutions_only(refuses: Callable[..., str]) -> None:
    save(
        build(
            [
                conv("first", "x", "w", "c"),
                conv("depthwise", "c", "wd", "d", group=4),
                conv("other", "d", "wd", "y", group=4),
            ],
            {"w": weights(1, 4, 3, 1, 1), "wd": weights(2, 4, 1, 3, 3)},
        )
    )
    line = refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")
    assert "depthwise convolution (group=4) (2×) with 86 % of the MACs" in line
    assert "first convolution" in line and "(1×) with 14 % of the MACs" in line


def test_names_that_leave_no_convolution(refuses: Callable[..., str]) -> None:
    assert "not named by --include" in refuses(3, "in.onnx", "out.onnx", "--include", "nothing", "--data", "data.npy")
    assert "excluded by --exclude" in refuses(3, "in.onnx", "out.onnx", "--exclude", ".", "--data", "data.npy")


def test_weights_that_are_no_numbers(refuses: Callable[..., str]) -> None:
    spoiled = {"w1": weights(1, 8, 3, 1, 1), "w2": weights(2, 8, 8, 3, 3)}
    spoiled["w2"][3, 2, 1, 0] = np.nan
    save(build([conv("conv1", "x", "w1", "c"), relu("c", "r"), conv("conv2", "r", "w2", "y")], spoiled))
    assert "not a number" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")


def test_activations_that_overflow(refuses: Callable[..., str]) -> None:
    stored = {"w1": weights(1, 8, 3, 1, 1) * np.float32(1e30), "w2": weights(2, 8, 8, 3, 3) * np.float32(1e30)}
    save(build([conv("conv1", "x", "w1", "c"), relu("c", "r"), conv("conv2", "r", "w2", "y")], stored))
    assert "the responses of conv2 reach" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.2")


def test_responses_close_to_overflow(refuses: Callable[..., str]) -> None:
    stored = {"w1": weights(1, 8, 3, 1, 1) * np.float32(1e30), "w2": weights(2, 8, 8, 3, 3)}
    save(build([conv("conv1", "x", "w1", "c"), relu("c", "r"), conv("conv2", "r", "w2", "y")], stored))
    assert "the responses of conv2 reach" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.2")


def test_an_operator_that_the_runtime_does_not_know(refuses: Callable[..., str]) -> None:
    model = models_for_tests.residual()
    model.graph.node.append(onnx.helper.make_node("Unheard", ["x"], ["z"], domain="of.it"))
    model.opset_import.append(onnx.helper.make_opsetid("of.it", 1))
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, ["n"]))
    save(model)
    assert "ONNX Runtime cannot load" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy", "--speedup", "1.2")


BAD_DATA: dict[str, tuple[Callable[[], Array], str]] = {
    "another number of channels": (lambda: photo(1, (12, 1, 12, 10)), "12x1x12x10"),
    "channels last": (lambda: photo(1, (12, 12, 10, 3)), "transpose"),
    "two dimensions": (lambda: photo(1, (12, 30)), "shape"),
    "no samples": (lambda: photo(1, (0, 3, 12, 10)), "0"),
    "words": (lambda: np.full(SHAPE, "word"), "convert the data"),
    "complex": (lambda: photo(1, SHAPE) * 1j, "convert the data"),
    "objects": (lambda: np.full(SHAPE, None), "data.npy"),
    "not a number": (lambda: np.where(np.arange(10) == 3, np.nan, photo(1, SHAPE)), "NaN"),
    "infinite": (lambda: np.where(np.arange(10) == 3, np.inf, photo(1, SHAPE)), "infinity"),
    "too large": (lambda: photo(1, SHAPE).astype(np.float64) * 1e300, "cannot hold"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_data_that_do_not_fit(kind: str, refuses: Callable[..., str]) -> None:
    make, reason = BAD_DATA[kind]
    np.save("data.npy", make())
    assert reason in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")
    np.savez("data.npz", x=make())
    assert "data.npz" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npz")


def test_data_that_are_missing_or_empty(refuses: Callable[..., str]) -> None:
    assert "do not exist" in refuses(3, "in.onnx", "out.onnx", "--data", "none")
    Path("empty").mkdir()
    assert "empty has 0 files" in refuses(3, "in.onnx", "out.onnx", "--data", "empty")
    Path("empty", "notes.txt").write_text("no photo")
    assert "empty has 1 file, but none" in refuses(3, "in.onnx", "out.onnx", "--data", "empty")
    Path("data.npy").write_bytes(b"")
    assert "data.npy" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy")
    Path("data.npz").write_bytes(b"PK but not really")
    assert "data.npz" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npz")


def test_photos_that_are_damaged(refuses: Callable[..., str]) -> None:
    Path("photos").mkdir()
    for index in range(3):
        Path("photos", f"{index}.jpg").write_bytes(b"\xff\xd8\xff broken")
    line = refuses(3, "in.onnx", "out.onnx", "--data", "photos", "--preprocess", "unit,resize=12x10", warns=True)
    assert "cannot be used" in line


def test_made_up_data_for_an_input_that_takes_none(refuses: Callable[..., str]) -> None:
    model = models_for_tests.plain()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    model.graph.input[0].name = "whole"
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["whole"], ["x"], to=onnx.TensorProto.FLOAT))
    for index, side in enumerate((1, 5, 12, 10)):
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_value = side
    model.graph.node.insert(1, onnx.helper.make_node("Slice", ["x", "from", "to", "axis"], ["cut"]))
    for name, value in (("from", 0), ("to", 3), ("axis", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    model.graph.node[2].input[0] = "cut"
    save(model)
    assert "no data can be made up" in refuses(3, "in.onnx", "out.onnx")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (None, "no labels"),
        (np.arange(12) % 10 / 2, "class number"),
        (np.arange(5), "class number"),
        (np.arange(12), "10 classes"),
        (np.arange(12) - 1, "start at 0"),
    ],
)
def test_labelled_samples_that_do_not_fit_are_refused_before_the_work(
    labels: Array | None, reason: str, refuses: Callable[..., str]
) -> None:
    images = photo(1, (12, 1, 28, 28))
    samples = WatchedSamples("input", images)
    if labels is None:
        np.savez("test.npz", input=images)
    else:
        np.savez("test.npz", input=images, labels=labels)
    assert reason in refuses(3, str(MNIST), "out.onnx", "--test", "test.npz", pipeline=samples.pipeline)
    # Two samples tell the shapes, and whether they may share a run; the network is run on no others.
    assert {sample for batch in samples.batches for sample in batch} <= {0, 1}


def test_labelled_samples_for_a_model_that_does_not_classify(refuses: Callable[..., str]) -> None:
    np.savez("test.npz", x=photo(1, SHAPE), labels=np.arange(12))
    assert "class scores" in refuses(3, "in.onnx", "out.onnx", "--data", "data.npy", "--test", "test.npz")
