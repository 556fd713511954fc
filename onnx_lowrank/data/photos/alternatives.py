"""The presets that a network may have been trained with, and samples carried from one of them to another.

Presets are affine in every channel and differ besides in the channel order. So samples of one preset become those of
another without decoding a photo again:

    pixel = value / scale + mean,   value' = (pixel − mean') · scale'

Arrays come without a preset. The range of their values tells which one they may hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.photos.image_input import ImageInput, image_input, takes_images
from onnx_lowrank.data.photos.preprocess import PRESETS, Preprocess
from onnx_lowrank.interface import TensorSpec

ALIKE = 0.03
"""Presets whose values differ by less than this share of their range are the same for a network."""

NEGATIVE = "mean=255,scale=-0.0039215686"
"""0..1 with black and white exchanged: writing is black on white on paper, and white on black for many networks."""

LEAST_SPREAD = 0.3
"""The share of a preset's range that the values of arrays in this preset fill at least."""


@dataclass(frozen=True)
class Alternative:
    """A preset, and the image input that it leads to."""

    preprocess: Preprocess
    target: ImageInput

    @property
    def name(self) -> str:
        """The value of ``--preprocess`` that stands for it."""
        return self.preprocess.preset


def alternatives(applied: Preprocess, spec: TensorSpec) -> tuple[Alternative, ...]:
    """Return a preset and those that it may have been mistaken for.

    Parameters
    ----------
    applied
        The preset; the others share its sizes, interpolation and layout.
    spec
        The model's input, which takes images.

    Returns
    -------
    tuple of Alternative
        The applied preset first. Another one that gives nearly the values of one before it is left out.
    """
    first = Alternative(applied, image_input(spec, applied))
    if first.target.spec.dtype.kind != "f":  # integers are the pixels themselves, whatever the preset
        return (first,)
    found = [first]
    for preprocess in _presets(applied, gray=first.target.channels == 1):
        candidate = Alternative(preprocess, image_input(spec, preprocess))
        if not any(alike(candidate.target, other.target) for other in found):
            found.append(candidate)
    return tuple(found)


def _presets(applied: Preprocess, *, gray: bool) -> Iterator[Preprocess]:
    """Yield the presets in both channel orders, with everything of the applied one that leaves values alone."""
    kept = [part for part in applied.preset.split(",")[1:] if part.split("=")[0] not in ("mean", "scale", "channels")]
    for name, preset in PRESETS.items():
        for order in (preset.channels,) if gray else (preset.channels, "bgr" if preset.channels == "rgb" else "rgb"):
            turned = [] if order == preset.channels else [f"channels={order}"]
            text = ",".join([name, *turned, *kept])
            yield replace(applied, preset=text, mean=preset.mean, scale=preset.scale, channels=order)
    if gray:
        yield replace(applied, preset=",".join([NEGATIVE, *kept]), mean=(255.0,), scale=(-1 / 255,))


def alike(one: ImageInput, other: ImageInput) -> bool:
    """Whether two presets give nearly the same values."""
    if one.order != other.order and one.channels != 1:
        return False
    ends, others = _ends(one), _ends(other)
    return bool(np.abs(ends - others).max() <= ALIKE * np.abs(ends[1] - ends[0]).max())


def _ends(target: ImageInput) -> NDArray[np.float64]:
    """Return the values of black and white, shape [2, channels]."""
    return np.stack([(pixel - target.mean) * target.scale for pixel in (0.0, 255.0)])


def carried(values: NDArray[Any], held: ImageInput, wanted: ImageInput) -> NDArray[Any]:
    """Return samples of one preset as those of another.

    Parameters
    ----------
    values
        Samples in the layout of the input.
    held, wanted
        The input under the preset of ``values``, and under the other one; they share the layout.

    Returns
    -------
    NDArray[Any]
        The samples under ``wanted``, of the same shape and type.
    """
    if held is wanted or values.dtype.kind != "f":
        return values
    axis = 1 if held.layout == "nchw" else 3
    shape = [-1 if index == axis else 1 for index in range(4)]
    work = np.promote_types(values.dtype, np.float32)

    def per_channel(numbers: NDArray[np.float64]) -> NDArray[Any]:
        return numbers.reshape(shape).astype(work)

    pixels = values / per_channel(held.scale) + per_channel(held.mean)
    if held.order != wanted.order:
        pixels = np.flip(pixels, axis)
    return np.ascontiguousarray((pixels - per_channel(wanted.mean)) * per_channel(wanted.scale), values.dtype)


def held_by(low: float, high: float, spec: TensorSpec) -> Preprocess | None:
    """Return the preset whose range the values of arrays have; None where no preset has it.

    Parameters
    ----------
    low, high
        The smallest and the largest value.
    spec
        The input that the arrays feed.
    """
    for name in ("unit", "raw", "signed", "imagenet", "caffe"):
        preprocess = PRESETS[name]
        if spec.dtype.kind != "f" or not takes_images(spec, preprocess):
            return None
        ends = _ends(image_input(spec, preprocess))
        least, most = float(ends.min()), float(ends.max())
        slack = 0.01 * (most - least)
        if least - slack <= low and high <= most + slack and high - low >= LEAST_SPREAD * (most - least):
            return preprocess
    return None
