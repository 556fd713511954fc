"""Train four small networks on the digits in models/ and export each with both exporters of PyTorch.

usage: python tools/torch_networks.py FOLDER

The networks are a residual one, one in the style of Inception, a dense one and one in the style of U-Net, in plain
torch.nn and with a fixed seed. The first three name the digit; the last cleans a noisy picture of it. The tool needs
torch and onnxscript. It writes the models, the samples to calibrate them with, and done.json, which lists them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

MODELS = Path(__file__).resolve().parents[1] / "models"
EPOCHS, BATCH, RATE, NOISE = 5, 50, 2e-3, 0.5
TRAINED_ON = 1200
"""The number of digits that the networks are trained on; the rest of the 1,500 labelled digits are held out."""


def block(c: int, d: int, kernel: Any = 3, stride: int = 1) -> nn.Sequential:
    """Return a convolution of c channels with d filters, batch normalisation and ReLU."""
    size = (kernel, kernel) if isinstance(kernel, int) else kernel
    pads = (size[0] // 2, size[1] // 2)
    return nn.Sequential(nn.Conv2d(c, d, size, stride, pads, bias=False), nn.BatchNorm2d(d), nn.ReLU())


class Residual(nn.Module):  # type: ignore[misc]
    """A residual network of bottlenecks and basic blocks, with projections where the size changes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 24)
        self.basic = nn.Sequential(block(24, 24), nn.Conv2d(24, 24, 3, 1, 1, bias=False), nn.BatchNorm2d(24))
        self.narrow = nn.Sequential(block(24, 24, 1), block(24, 24, 3, 2), nn.Conv2d(24, 64, 1), nn.BatchNorm2d(64))
        self.across = nn.Sequential(nn.Conv2d(24, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
        self.last = nn.Sequential(block(64, 64), nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 28, 28] → logits [N, 10]."""
        x = self.stem(x)
        x = torch.relu(x + self.basic(x))
        x = torch.relu(self.across(x) + self.narrow(x))
        x = functional.silu(x + self.last(x))
        return self.head(x.mean((2, 3)))


class Inception(nn.Module):  # type: ignore[misc]
    """A network whose branches have kernels of several shapes, some of them rectangular."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(1, 32), nn.MaxPool2d(2))
        self.one = block(32, 16, 1)
        self.three = nn.Sequential(block(32, 24, 1), block(24, 32))
        self.five = nn.Sequential(block(32, 24, (1, 7)), block(24, 24, (7, 1)), block(24, 24, 5))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), block(32, 16, 1))
        self.last = block(88, 64, 3, 2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 28, 28] → logits [N, 10]."""
        x = self.stem(x)
        x = torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)
        return self.head(functional.adaptive_avg_pool2d(self.last(x), 1).flatten(1))


class Dense(nn.Module):  # type: ignore[misc]
    """A network in which every layer reads all layers before it.

    The normalisation stands before the convolution, so it cannot be folded.
    """

    def __init__(self, layers: int = 4, growth: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, 2, 1)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(32 + i * growth), nn.ReLU(), nn.Conv2d(32 + i * growth, growth, 3, 1, 1))
            for i in range(layers)
        )
        width = 32 + layers * growth
        self.end = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 48, 1), nn.AvgPool2d(2))
        self.last = block(48, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 1, 28, 28] → logits [N, 10]."""
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(self.last(self.end(x)).amax((2, 3)))


class UNet(nn.Module):  # type: ignore[misc]
    """A network that goes down and up again, once by a transposed convolution and once by repeating pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(block(1, 16), block(16, 16))
        self.second = nn.Sequential(nn.MaxPool2d(2), block(16, 32), block(32, 32))
        self.third = nn.Sequential(nn.MaxPool2d(2), block(32, 64), block(64, 64))
        self.up = nn.ConvTranspose2d(64, 32, 2, 2)
        self.back = nn.Sequential(block(64, 32), nn.Upsample(scale_factor=2, mode="nearest"), block(32, 16))
        self.end = nn.Sequential(block(32, 16), nn.Conv2d(16, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Noisy [N, 1, 28, 28] → clean logits [N, 1, 28, 28]."""
        first = self.first(x)
        second = self.second(first)
        x = torch.cat([self.up(self.third(second)), second], 1)
        return self.end(torch.cat([self.back(x), first], 1))


NETWORKS = {"residual": Residual, "inception": Inception, "dense": Dense, "unet": UNet}


def train(network: nn.Module, x: torch.Tensor, target: torch.Tensor) -> float:
    """Train; return the loss on the samples that were held out."""
    picture = target.ndim > 1
    loss: Any = functional.binary_cross_entropy_with_logits if picture else functional.cross_entropy
    optimiser = torch.optim.Adam(network.parameters(), RATE)
    for _ in range(EPOCHS):
        network.train()
        for rows in torch.randperm(TRAINED_ON).split(BATCH):
            optimiser.zero_grad()
            loss(network(x[rows]), target[rows]).backward()
            optimiser.step()
    network.eval()
    with torch.no_grad():
        return float(loss(network(x[TRAINED_ON:]), target[TRAINED_ON:]))


def export(network: nn.Module, sample: torch.Tensor, path: Path, *, dynamo: bool) -> None:
    """Write one file that takes any number of samples."""
    names = {"input_names": ["input"], "output_names": ["output"]}
    if dynamo:
        shapes = ({0: torch.export.Dim("batch")},)
        torch.onnx.export(network, (sample,), path, dynamo=True, dynamic_shapes=shapes, verbose=False, **names)
    else:
        axes = {"input": {0: "batch"}, "output": {0: "batch"}}
        torch.onnx.export(network, (sample,), path, dynamo=False, dynamic_axes=axes, opset_version=17, **names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write to")
    folder = parser.parse_args().folder
    with np.load(MODELS / "mnist_test.npz") as digits:
        x, labels = torch.from_numpy(digits["input"]), torch.from_numpy(digits["labels"])
    written = []
    for name, network_class in NETWORKS.items():
        torch.manual_seed(0)
        network = network_class()
        noisy = name == "unet"
        inputs = x + NOISE * torch.randn_like(x) if noisy else x
        held_out_loss = train(network, inputs, (x > 0.5).float() if noisy else labels)
        np.savez(folder / f"{name}.npz", input=inputs[:TRAINED_ON].numpy())
        for dynamo in (False, True):
            exporter = "dynamo" if dynamo else "TorchScript"
            path = folder / f"torch_{name}_{exporter.lower()}.onnx"
            export(network, inputs[:2], path, dynamo=dynamo)
            source = f"torch {torch.__version__.split('+')[0]}, {exporter}"
            written.append({"name": path.stem, "source": source, "file": path.name, "data": f"{name}.npz"})
        print(f"{name}: loss {held_out_loss:.4f} on {len(x) - TRAINED_ON} digits that were held out")
    (folder / "done.json").write_text(json.dumps(written, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
