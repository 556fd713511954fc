"""A model input that takes images: its layout, channels and size, and the last step from pixels to values.

The layout is read from the shape: a channel dimension of 1, 3 or 4 at axis 1 means NCHW, at the last axis NHWC; where
both or neither fit, NCHW unless the preprocessing says otherwise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.conform import times
from onnx_lowrank.data.photos.preprocess import Channels, Layout, Preprocess, Size
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import TensorSpec

DEFAULT_SIDE = 224
"""Side of the input where the model leaves height and width open."""


@dataclass(frozen=True)
class ImageInput:
    """An image input, every open choice made.

    Attributes
    ----------
    spec
        The model's input.
    layout
        Its layout.
    channels
        1 (gray), 3, or 4 (a colour image with its luminance; synthetic images only).
    size
        Height and width in pixels.
    order
        Channel order of the model.
    mean, scale
        The affine map of the pixels, shape [channels] each, in that order.
    """

    spec: TensorSpec
    layout: Layout
    channels: int
    size: Size
    order: Channels
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Map pixels [n, height, width, channels] (RGB) to the model's values, layout, order and dtype.

        Integer inputs take the pixels themselves, in the model's channel order.
        """
        if self.order == "bgr":
            pixels = np.concatenate([pixels[..., 2::-1], pixels[..., 3:]], axis=-1)
        if self.layout == "nchw":
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        dtype = self.spec.dtype
        if dtype.kind in "iu":
            return pixels.astype(dtype)
        shape = (-1, 1, 1) if self.layout == "nchw" else (-1,)
        # In the input's own precision, but not below single: half floats are rounded once, at the end.
        work = np.promote_types(dtype, np.float32) if dtype.kind == "f" else np.dtype(np.float32)
        values = np.subtract(pixels, self.mean.reshape(shape), dtype=work)
        np.multiply(values, self.scale.reshape(shape).astype(work), out=values)
        return values.astype(dtype, copy=False)


def image_input(spec: TensorSpec, preprocess: Preprocess) -> ImageInput:
    """Make every open choice of an image input.

    Parameters
    ----------
    spec
        The model's input.
    preprocess
        The preprocessing asked for.

    Returns
    -------
    ImageInput
        Size, layout and affine map.

    Raises
    ------
    DataError
        If the input does not take images.
    UsageError
        If the preprocessing contradicts the input's shape or itself.
    """
    if not takes_images(spec, preprocess):
        shape = "unknown" if spec.shape is None else times(spec.shape)
        raise DataError(
            f"input {spec.name!r} ({spec.dtype}, shape {shape}) does not take images, which need 4 dimensions, 1 or 3 "
            "channels and room for 0..255: give the data as .npz or .npy"
        )
    layout = _layout(spec, preprocess)
    channels = _channels(spec, layout)
    if channels is None:
        channels = 1 if preprocess.channels == "gray" else 3
    if preprocess.channels == "gray" and channels != 1:
        raise UsageError(f"--preprocess: channels=gray, but input {spec.name!r} has {channels} channels: say rgb")
    return ImageInput(
        spec=spec,
        layout=layout,
        channels=channels,
        size=_size(spec, layout, preprocess),
        order="gray" if channels == 1 else preprocess.channels,
        mean=_per_channel(preprocess.mean, channels),
        scale=_per_channel(preprocess.scale, channels),
    )


def takes_images(spec: TensorSpec, preprocess: Preprocess) -> bool:
    """Whether an input can be fed with images: rank 4 (or unknown), 1, 3 or 4 channels (or unknown), 0..255 fits."""
    if spec.dtype.kind in "bcOSU" or (spec.dtype.kind in "iu" and np.iinfo(spec.dtype).max < 255):
        return False
    if spec.shape is not None and len(spec.shape) != 4:
        return False
    return _channels(spec, _layout(spec, preprocess)) in (None, 1, 3, 4)


def _layout(spec: TensorSpec, preprocess: Preprocess) -> Layout:
    if preprocess.layout is not None:
        return preprocess.layout
    if spec.shape is not None and spec.shape[1] not in (1, 3, 4) and spec.shape[-1] in (1, 3, 4):
        return "nhwc"
    return "nchw"


def _channels(spec: TensorSpec, layout: Layout) -> int | None:
    side = None if spec.shape is None else spec.shape[1 if layout == "nchw" else 3]
    return side if isinstance(side, int) else None


def _size(spec: TensorSpec, layout: Layout, preprocess: Preprocess) -> Size:
    """Height and width of what is fed: the model's where static, else the crop's, else the resize's, else 224."""
    sides = (None, None) if spec.shape is None else spec.shape[2:] if layout == "nchw" else spec.shape[1:3]
    resize, crop = preprocess.resize, preprocess.crop
    default: Size = (DEFAULT_SIDE, DEFAULT_SIDE)
    if isinstance(crop, tuple):
        default = crop
    elif isinstance(resize, tuple):
        default = resize
    elif isinstance(resize, int):
        default = (min(resize, DEFAULT_SIDE), min(resize, DEFAULT_SIDE))
    height, width = (side if isinstance(side, int) else other for side, other in zip(sides, default, strict=True))
    where = f"input {spec.name!r} takes {height}x{width}"
    if isinstance(crop, tuple) and crop != (height, width):
        raise UsageError(f"--preprocess: crop={crop[0]}x{crop[1]}, but {where}: crop to that size or leave crop out")
    if crop is None and isinstance(resize, tuple) and resize != (height, width):
        raise UsageError(f"--preprocess: resize={resize[0]}x{resize[1]} with crop=none, but {where}: resize to that")
    if crop is None and isinstance(resize, int):
        raise UsageError(
            f"--preprocess: resize={resize} keeps the aspect ratio, which needs a crop: leave out crop=none"
        )
    short = isinstance(resize, int) and resize < min(height, width)
    if short or (isinstance(resize, tuple) and (resize[0] < height or resize[1] < width)):
        raise UsageError(f"--preprocess: resize={preprocess.resize} leaves too little to crop, {where}: resize larger")
    return height, width


def _per_channel(values: tuple[float, ...], channels: int) -> NDArray[np.float64]:
    """One value per channel; what three colours cannot give (gray, a fourth channel) takes their average."""
    if len(values) == 1:
        return np.full(channels, values[0])
    if len(values) != 3:
        raise UsageError(f"the preprocessing has {len(values)} means or scales: give 1 or 3")
    average = float(np.mean(values))
    return np.array({1: (average,), 3: values, 4: (*values, average)}[channels])
