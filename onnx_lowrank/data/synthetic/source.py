"""Samples made up for every input of a model: synthetic images for an input that takes images, noise for the others."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arranged import samples_first
from onnx_lowrank.data.messages import plural, shape_text
from onnx_lowrank.data.photos.image_input import KEEP_BYTES, ImageInput, image_input, takes_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.synthetic.scenes import synthetic_image
from onnx_lowrank.data.synthetic.strokes import strokes_image
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import Feeds, TensorSpec

LARGEST_SETTING = 4
"""The most numbers of an input that sets something for all samples, such as a rate or a height and width."""

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""The weights of red, green and blue in a gray value (ITU-R BT.601)."""


@dataclass(frozen=True)
class _Images:
    """Synthetic images for one input.

    Attributes
    ----------
    target
        The model's input.
    seed
        The seed of all images.
    kept
        The pixels of all images, shape [n, height, width, channels]; None if they take too much memory.
    """

    target: ImageInput
    seed: int
    kept: NDArray[np.uint8] | None

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        if self.kept is not None:
            return self.target.normalise(self.kept[np.asarray(indices, np.int64)])
        return self.target.normalise(_pixels(self.target, self.seed, indices))


@dataclass(frozen=True)
class _Noise:
    """Standard normal noise for one input; ``shape`` is that of one sample."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    seed: tuple[int, int]

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        samples = [np.random.default_rng([*self.seed, index]).standard_normal(self.shape) for index in indices]
        return np.stack(samples).astype(self.dtype)


@dataclass(frozen=True)
class _Constant:
    """The same few numbers in every sample, for an input that takes one value for all of them, such as a rate."""

    value: NDArray[Any]

    def batch(self, indices: Sequence[int]) -> NDArray[Any]:
        return np.broadcast_to(self.value, (len(indices), *self.value.shape))


@dataclass(frozen=True)
class SyntheticSource:
    """Made-up samples as a :class:`~onnx_lowrank.data.source.Source`.

    Attributes
    ----------
    inputs
        What is made up for each input.
    samples
        The number of samples.
    description
        Describes the samples in the report.
    synthetic
        Whether the samples are made up.
    """

    inputs: dict[str, _Images | _Noise | _Constant]
    samples: int
    description: str
    synthetic: bool = True

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.samples

    @property
    def images(self) -> frozenset[str]:
        """The inputs that images are made up for."""
        return frozenset(name for name, made in self.inputs.items() if isinstance(made, _Images))

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch; a sample depends only on the seed and on its number."""
        return {name: generator.batch(indices) for name, generator in self.inputs.items()}


def open_synthetic(
    specs: tuple[TensorSpec, ...], preprocess: Preprocess, count: int, seed: int, keep_bytes: int = KEEP_BYTES
) -> SyntheticSource:
    """Make up samples.

    Parameters
    ----------
    specs
        The model's inputs. The samples of each lie along the first dimension.
    preprocess
        How pixels become values. The images are made in the input's size, so they are never resampled.
    count
        The number of samples, at least 1.
    seed
        The seed of all samples, not negative.
    keep_bytes
        The largest size of an input's pixels that are kept in memory; more are made again for each batch.

    Returns
    -------
    SyntheticSource
        The samples.

    Raises
    ------
    DataError
        If nothing sensible can be made up for an input: integers that do not hold an image, or an unknown shape.
    """
    inputs: dict[str, _Images | _Noise | _Constant] = {}
    for given in specs:
        spec = samples_first(given)
        if (value := _setting(given)) is not None:
            inputs[spec.name] = _Constant(value)
        elif spec.shape is not None and len(spec.shape) == 4 and takes_images(spec, preprocess):
            inputs[spec.name] = _images(image_input(spec, preprocess), seed, count, keep_bytes)
        else:
            inputs[spec.name] = _noise(spec, seed)
    phrases = []
    images = [generator for generator in inputs.values() if isinstance(generator, _Images)]
    if images:
        gray = any(generator.target.channels == 1 for generator in images)
        models = "pen strokes, dead leaves and 1/f noise" if gray else "dead leaves and 1/f noise"
        phrases.append(f"{plural(count, 'synthetic image')} ({models}, preset {preprocess.preset})")
    noisy = [repr(name) for name, generator in inputs.items() if isinstance(generator, _Noise)]
    if noisy:
        samples = plural(count, "sample")
        phrases.append(f"{samples} of standard normal noise for {', '.join(noisy)} (no image input)")
    settings = {name: generator.value for name, generator in inputs.items() if isinstance(generator, _Constant)}
    if settings:
        phrases.append(", ".join(f"{value.flat[0]} for {name!r}" for name, value in settings.items()))
    return SyntheticSource(inputs, count, "; ".join(phrases))


def _setting(spec: TensorSpec) -> NDArray[Any] | None:
    """Return the value of an input that sets something for all samples of a run; None for any other input.

    Such an input has few numbers and no dimension for samples, or holds one number in a run of one sample. It is off
    where it is a flag, and 1 otherwise, which is a neutral scale and a size or number of steps that exists.
    """
    if spec.shape is None or spec.dtype.kind not in "biuf" or not all(isinstance(side, int) for side in spec.shape):
        return None
    sides = [side for side in spec.shape if isinstance(side, int)]
    alone = spec.axis is None or not sides
    if math.prod(sides) > (LARGEST_SETTING if alone else 1):
        return None
    shape = tuple(sides) if alone else tuple(sides[1:])
    return np.full(shape, spec.dtype.kind != "b", spec.dtype)


def _images(target: ImageInput, seed: int, count: int, keep_bytes: int) -> _Images:
    fits = count * target.made_size[0] * target.made_size[1] * target.channels <= keep_bytes
    return _Images(target, seed, _pixels(target, seed, range(count)) if fits else None)


def _pixels(target: ImageInput, seed: int, indices: Sequence[int]) -> NDArray[np.uint8]:
    """Make the images of those numbers, shape [n, height, width, channels]."""
    return np.stack([_image(target, seed, index) for index in indices])


def _image(target: ImageInput, seed: int, index: int) -> NDArray[np.uint8]:
    if target.channels == 1 and index % 3:  # two thirds of the gray images show writing, as strokes.py explains
        return strokes_image(seed, index, *target.made_size)[..., None]
    pixels = synthetic_image(seed, index, *target.made_size)
    if target.channels == 3:
        return pixels
    gray = (pixels @ _LUMA + 0.5).astype(np.uint8)[..., None]
    return gray if target.channels == 1 else np.concatenate([pixels, gray], axis=-1)


def _noise(spec: TensorSpec, seed: int) -> _Noise:
    sides = None if spec.shape is None else spec.shape[1:]
    if sides is None or not all(isinstance(side, int) for side in sides) or spec.dtype.kind not in "fV":
        shape = "unknown shape" if sides is None else f"shape {shape_text(('N', *sides))}"
        raise DataError(
            f"no data can be made up for input {spec.name!r} ({spec.dtype}, {shape}): give calibration data as .npz, "
            "or the input's size with --input-shapes if it is open"
        )
    sample_shape = tuple(side for side in sides if isinstance(side, int))
    return _Noise(sample_shape, spec.dtype, (seed, zlib.crc32(spec.name.encode())))
