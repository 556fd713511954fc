"""Samples made up for every input of a model: synthetic images where it takes images, noise elsewhere."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.choose import choose
from onnx_lowrank.data.conform import times
from onnx_lowrank.data.photos.folder import KEEP_BYTES
from onnx_lowrank.data.photos.image_input import ImageInput, image_input, takes_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.synthetic.scenes import synthetic_image
from onnx_lowrank.data.synthetic.strokes import strokes_image
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class _Images:
    """Synthetic images for one input; the pixels are kept, shape [n, height, width, channels], while they fit."""

    target: ImageInput
    seed: int
    kept: NDArray[np.uint8] | None

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        if self.kept is not None:
            return self.target.normalise(self.kept[np.asarray(indices, np.int64)])
        return self.target.normalise(np.stack([_pixels(self.target, self.seed, index) for index in indices]))


@dataclass(frozen=True)
class _Noise:
    """Standard normal noise for one input."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    seed: tuple[int, int]

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        drawn = [np.random.default_rng([*self.seed, index]).standard_normal(self.shape) for index in indices]
        return np.stack(drawn).astype(self.dtype)


@dataclass(frozen=True)
class SyntheticSource:
    """Made-up samples as a :class:`~onnx_lowrank.calibration.source.Source`."""

    inputs: dict[str, _Images | _Noise]
    samples: int
    description: str
    synthetic: bool = True

    def __len__(self) -> int:
        """Count the samples."""
        return self.samples

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """One batch; a sample depends only on the seed and its number."""
        return {name: maker.batch(indices) for name, maker in self.inputs.items()}


def open_synthetic(specs: tuple[TensorSpec, ...], *, preprocess: Preprocess, count: int, seed: int) -> SyntheticSource:
    """Make up samples.

    Parameters
    ----------
    specs
        The model's inputs.
    preprocess
        How pixels become values; the images are made in the input's size, so nothing is resampled.
    count, seed
        How many, and from which seed.

    Returns
    -------
    SyntheticSource
        The samples.

    Raises
    ------
    DataError
        If nothing sensible can be made up for an input: integers that are no images, or an unknown shape.
    """
    choose(1, count, seed)  # the same demands on count and seed as everywhere
    inputs: dict[str, _Images | _Noise] = {}
    noisy = []
    for spec in specs:
        if spec.shape is not None and len(spec.shape) == 4 and takes_images(spec, preprocess):
            inputs[spec.name] = _images(image_input(spec, preprocess), seed, count)
        else:
            inputs[spec.name] = _noise(spec, seed)
            noisy.append(repr(spec.name))
    told = []
    if len(noisy) < len(specs):
        gray = any(isinstance(made, _Images) and made.target.channels == 1 for made in inputs.values())
        kinds = "pen strokes, dead leaves and 1/f noise" if gray else "dead leaves and 1/f noise"
        told.append(f"{count} synthetic images ({kinds}, preset {preprocess.preset})")
    if noisy:
        told.append(f"{count} samples of standard normal noise for {', '.join(noisy)} (no image input)")
    return SyntheticSource(inputs, count, "; ".join(told))


def _images(target: ImageInput, seed: int, count: int) -> _Images:
    if count * target.size[0] * target.size[1] * target.channels > KEEP_BYTES:
        return _Images(target, seed, None)
    return _Images(target, seed, np.stack([_pixels(target, seed, index) for index in range(count)]))


def _pixels(target: ImageInput, seed: int, index: int) -> NDArray[np.uint8]:
    if target.channels == 1 and index % 3:  # two thirds; see strokes
        return strokes_image(seed, index, *target.size)[..., None]
    pixels = synthetic_image(seed, index, *target.size)
    if target.channels == 3:
        return pixels
    gray = (pixels @ _LUMA + 0.5).astype(np.uint8)[..., None]
    return gray if target.channels == 1 else np.concatenate([pixels, gray], axis=-1)


def _noise(spec: TensorSpec, seed: int) -> _Noise:
    sides = None if spec.shape is None else spec.shape[1:]
    if sides is None or not all(isinstance(side, int) for side in sides) or spec.dtype.kind not in "fV":
        shape = "unknown shape" if sides is None else f"shape {times(('N', *sides))}"
        raise DataError(
            f"no data can be made up for input {spec.name!r} ({spec.dtype}, {shape}): give calibration data as .npz, "
            "or its size with --input-shapes if it is open"
        )
    shape_ = tuple(side for side in sides if isinstance(side, int))
    return _Noise(shape_, spec.dtype, (seed, zlib.crc32(spec.name.encode())))
