"""The committed model and its images agree with models/README.md."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

MODELS = Path(__file__).resolve().parents[1] / "models"
BINARIES = ("mnist_vgg.onnx", "mnist_calib.npz", "mnist_test.npz")


def arrays(name: str) -> dict[str, NDArray[Any]]:
    with np.load(MODELS / name) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def readme() -> str:
    return (MODELS / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def calibration() -> dict[str, NDArray[Any]]:
    return arrays("mnist_calib.npz")


@pytest.fixture(scope="module")
def labelled() -> dict[str, NDArray[Any]]:
    return arrays("mnist_test.npz")


@pytest.fixture(scope="module")
def model() -> Any:
    return onnx.load(str(MODELS / "mnist_vgg.onnx"))


@pytest.mark.parametrize("name", BINARIES)
def test_readme_gives_the_size_of_the_file(readme: str, name: str) -> None:
    size = (MODELS / name).stat().st_size
    assert f"| `{name}` | {size:,} |" in readme


def test_the_files_together_are_small() -> None:
    assert sum((MODELS / name).stat().st_size for name in BINARIES) < 3_000_000


def test_calibration_images_have_no_labels(calibration: dict[str, NDArray[Any]]) -> None:
    assert set(calibration) == {"input"}
    assert calibration["input"].shape == (500, 1, 28, 28)


def test_every_test_image_has_a_label(labelled: dict[str, NDArray[Any]]) -> None:
    assert set(labelled) == {"input", "labels"}
    assert labelled["input"].shape == (1500, 1, 28, 28)
    assert labelled["labels"].shape == (1500,)
    assert set(labelled["labels"].tolist()) == set(range(10))


@pytest.mark.parametrize("name", ["mnist_calib.npz", "mnist_test.npz"])
def test_pixels_are_float32_from_0_to_1(name: str) -> None:
    images = arrays(name)["input"]
    assert images.dtype == np.float32
    assert images.min() == 0
    assert images.max() == 1


def test_no_calibration_image_is_a_test_image(
    calibration: dict[str, NDArray[Any]], labelled: dict[str, NDArray[Any]]
) -> None:
    known = {image.tobytes() for image in calibration["input"]}
    assert len(known) == 500
    assert not known & {image.tobytes() for image in labelled["input"]}


def test_accuracy_is_the_one_in_the_readme(readme: str, labelled: dict[str, NDArray[Any]]) -> None:
    claim = re.search(r"Accuracy: ([\d,]+) of the ([\d,]+) test images right, top-1 (0\.\d+)", readme)
    assert claim is not None
    correct, total = (int(number.replace(",", "")) for number in claim.groups()[:2])
    stated = float(claim[3])
    assert total == 1500
    assert stated == pytest.approx(correct / total, abs=5e-5)

    session = ort.InferenceSession(MODELS / "mnist_vgg.onnx", providers=["CPUExecutionProvider"])
    batches = np.split(labelled["input"], 10)
    predicted = np.concatenate([session.run(["logits"], {"input": batch})[0].argmax(1) for batch in batches])
    assert (predicted == labelled["labels"]).mean() == pytest.approx(stated, abs=0.001)
    assert stated >= 0.988


def test_model_is_valid_and_has_a_free_batch_size(model: Any) -> None:
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    dimensions = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, dimensions) == ("input", ["N", 1, 28, 28])
    dimensions = [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim]
    assert (logits.name, dimensions) == ("logits", ["N", 10])
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]


def test_batch_normalisation_is_not_folded_yet_and_is_in_inference_form(model: Any) -> None:
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 6
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == 6
    for node in norms:
        assert len(node.output) == 1
        assert {attribute.name: attribute.i for attribute in node.attribute}.get("training_mode", 0) == 0


def test_model_takes_as_many_multiply_accumulates_as_the_readme_says(model: Any, readme: str) -> None:
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    side, total = 28, 0
    for node in model.graph.node:  # in this chain every 3×3 convolution keeps the size and every pooling halves it
        if node.op_type == "MaxPool":
            side //= 2
        elif node.op_type == "Conv":
            total += side * side * int(np.prod(shapes[node.input[1]]))
        elif node.op_type == "Gemm":
            total += int(np.prod(shapes[node.input[1]]))
    assert f"{total:,} multiply-accumulates" in readme


# These are the traces of a path, of an exporter's stack trace or of a home folder. Only the parts that are text are
# searched, because a short pattern can also occur by chance among weights and compressed pixels.
@pytest.mark.parametrize(
    "trace", [rb"/(home|root|tmp|work|usr|opt|mnt|var|Users)/", rb"[A-Za-z]:\\", rb"\.py\b", rb"site-packages"]
)
def test_model_names_no_machine(model: Any, trace: bytes) -> None:
    text = onnx.ModelProto()
    text.CopyFrom(model)
    for tensor in text.graph.initializer:
        tensor.ClearField("raw_data")
        tensor.ClearField("float_data")
    assert re.search(trace, text.SerializeToString()) is None


@pytest.mark.parametrize("name", BINARIES)
def test_no_long_machine_path_is_in_the_raw_bytes(name: str) -> None:
    data = (MODELS / name).read_bytes()
    assert re.search(rb"/(home|root|tmp|work|Users)/[\w.-]{2}|site-packages", data) is None
