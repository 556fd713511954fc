"""Train a small residual network on the digits in models/ with Flax and export it with jax2onnx.

usage: python tools/jax_networks.py FOLDER

The channels of the network come last, so the exporter writes Transposes around every convolution. The seed is fixed.
The tool needs jax2onnx==0.17.1, which brings JAX, Flax and Optax. It writes the model, the samples to calibrate it
with, and done.json, which lists them.
"""

import argparse
import json
from pathlib import Path

import jax2onnx
import numpy as np
import optax
from flax import nnx
from jax import Array
from jax import numpy as jnp

MODELS = Path(__file__).resolve().parents[1] / "models"
EPOCHS, BATCH, RATE = 5, 50, 2e-3
TRAINED_ON = 1200
"""The number of digits that the network is trained on; the rest of the 1,500 labelled digits are held out."""


class Block(nnx.Module):  # type: ignore[misc]
    """A convolution of c channels with d filters and batch normalisation, without an activation.

    ``geometry`` are keywords of ``nnx.Conv``.
    """

    def __init__(self, c: int, d: int, rngs: nnx.Rngs, size: int = 3, **geometry: int) -> None:
        self.conv = nnx.Conv(c, d, (size, size), use_bias=False, rngs=rngs, **geometry)
        self.norm = nnx.BatchNorm(d, momentum=0.9, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[N, h, w, c] → [N, h', w', d]."""
        return self.norm(self.conv(x))


class Residual(nnx.Module):  # type: ignore[misc]
    """A residual network: a basic block, a block with a stride and a projection, and one with groups and dilation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = Block(1, 24, rngs)
        self.first, self.second = Block(24, 24, rngs), Block(24, 24, rngs)
        self.down, self.behind = Block(24, 48, rngs, strides=2), Block(48, 48, rngs)
        self.across = Block(24, 48, rngs, size=1, strides=2)
        self.grouped = Block(48, 48, rngs, feature_group_count=2)
        self.dilated = Block(48, 48, rngs, kernel_dilation=2)
        self.head = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[N, 28, 28, 1] → logits [N, 10]."""
        x = nnx.relu(self.stem(x))
        x = nnx.relu(x + self.second(nnx.relu(self.first(x))))
        x = nnx.relu(self.across(x) + self.behind(nnx.silu(self.down(x))))
        x = nnx.gelu(x + self.dilated(nnx.gelu(self.grouped(x))))
        return self.head(x.mean((1, 2)))


def loss_of(network: Residual, x: Array, labels: Array) -> Array:
    """Return the mean cross-entropy."""
    return optax.softmax_cross_entropy_with_integer_labels(network(x), labels).mean()


def train(network: Residual, x: Array, labels: Array) -> float:
    """Train; return the loss on the samples that were held out."""
    optimiser, rng = nnx.Optimizer(network, optax.adam(RATE), wrt=nnx.Param), np.random.default_rng(0)

    @nnx.jit  # type: ignore[untyped-decorator]
    def step(network: Residual, optimiser: nnx.Optimizer, x: Array, labels: Array) -> None:
        optimiser.update(network, nnx.grad(loss_of)(network, x, labels))

    for _ in range(EPOCHS):
        for rows in rng.permutation(TRAINED_ON).reshape(-1, BATCH):
            step(network, optimiser, x[rows], labels[rows])
    network.eval()
    return float(loss_of(network, x[TRAINED_ON:], labels[TRAINED_ON:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write to")
    folder = parser.parse_args().folder
    with np.load(MODELS / "mnist_test.npz") as digits:
        x, labels = digits["input"].transpose(0, 2, 3, 1), digits["labels"]
    network = Residual(nnx.Rngs(0))
    held_out_loss = train(network, jnp.asarray(x), jnp.asarray(labels))
    np.savez(folder / "residual.npz", input=x[:TRAINED_ON])
    path = folder / "jax_residual.onnx"
    jax2onnx.to_onnx(
        network,
        [("batch", *x.shape[1:])],
        input_names=["input"],
        output_names=["output"],
        return_mode="file",
        output_path=str(path),
    )
    print(f"residual: loss {held_out_loss:.4f} on {len(x) - TRAINED_ON} digits that were held out")
    entry = {"name": path.stem, "source": "jax2onnx 0.17.1", "file": path.name, "data": "residual.npz"}
    (folder / "done.json").write_text(json.dumps([entry], indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
