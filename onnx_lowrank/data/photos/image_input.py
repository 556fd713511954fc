"""A model input that takes images: its layout, channels and size, and the last step from pixels to values.

The layout follows from the shape: a size of 1, 3 or 4 at axis 1 means NCHW, at the last axis NHWC. If both or neither
have such a size, the layout is NCHW unless the preprocessing says otherwise.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.messages import shape_text
from onnx_lowrank.data.photos.preprocess import Channels, Layout, OpenSize, Preprocess, Size
from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.interface import TensorSpec

DEFAULT_SIDE = 224
"""The height and width of an input whose model leaves them open."""

KEEP_BYTES = 512 * 2**20
"""The largest size of all pixels of a source that are kept in memory."""


@dataclass(frozen=True)
class ImageInput:
    """An image input without open choices.

    Attributes
    ----------
    spec
        The model's input.
    layout
        The input's layout.
    channels
        1 (gray), 3, or 4 (a colour image with its luminance; synthetic images only).
    size
        Height and width in pixels; None where every photo keeps its own.
    order
        The model's channel order.
    mean, scale
        The affine map of the pixels, in that order, shape [channels] each.
    """

    spec: TensorSpec
    layout: Layout
    channels: int
    size: OpenSize
    order: Channels
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @property
    def made_size(self) -> Size:
        """Height and width of an image that is made up."""
        height, width = self.size
        return height or DEFAULT_SIDE, width or DEFAULT_SIDE

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Map pixels to the model's values, layout, channel order and dtype.

        Parameters
        ----------
        pixels
            RGB, or gray, shape [n, height, width, channels].

        Returns
        -------
        NDArray[Any]
            (pixel − mean) · scale, shape [n, channels, height, width] or, in NHWC, [n, height, width, channels]. An
            integer input takes the pixels themselves.
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
    """Decide every open choice of an image input.

    Parameters
    ----------
    spec
        The model's input.
    preprocess
        How photos become inputs.

    Returns
    -------
    ImageInput
        The input with its layout, channels, size and affine map.

    Raises
    ------
    DataError
        If the input does not take images.
    UsageError
        If the preprocessing contradicts the input's shape or itself.
    """
    if not takes_images(spec, preprocess):
        shape = "unknown" if spec.shape is None else shape_text(spec.shape)
        raise DataError(
            f"input {spec.name!r} ({spec.dtype}, shape {shape}) does not take images, which need 4 dimensions, 1 or 3 "
            "channels and room for 0..255: give the data as .npz or .npy"
        )
    layout = _layout(spec, preprocess)
    channels = _channels(spec, layout)
    if channels is None:
        channels = 1 if preprocess.channels == "gray" else 3
    if preprocess.channels == "gray" and channels != 1:
        raise UsageError(f"--preprocess: channels=gray, but input {spec.name!r} has {channels} channels: give rgb")
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
    """Whether an input takes images: its rank is 4, it has 1, 3 or 4 channels, and its dtype holds 0..255.

    An unknown rank and an unknown number of channels count as fitting.
    """
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


def _size(spec: TensorSpec, layout: Layout, preprocess: Preprocess) -> OpenSize:
    """Return the model's height and width where they are static, else the crop's, else the resize's, else 224.

    Where nothing but the photo decides an open side, it is None.
    """
    sides = (None, None) if spec.shape is None else spec.shape[2:] if layout == "nchw" else spec.shape[1:3]
    resize, crop = preprocess.resize, preprocess.crop
    height, width = (side if isinstance(side, int) else None for side in sides)
    if crop is None and (resize is None or isinstance(resize, int)) and None in (height, width):
        return height, width
    defaults: Size = (DEFAULT_SIDE, DEFAULT_SIDE)
    if isinstance(crop, tuple):
        defaults = crop
    elif isinstance(resize, tuple):
        defaults = resize
    elif isinstance(resize, int):
        defaults = (min(resize, DEFAULT_SIDE), min(resize, DEFAULT_SIDE))
    height, width = (
        side if isinstance(side, int) else fallback for side, fallback in zip(sides, defaults, strict=True)
    )
    requirement = f"input {spec.name!r} takes {height}x{width}"
    if isinstance(crop, tuple) and crop != (height, width):
        raise UsageError(f"--preprocess: crop={shape_text(crop)}, but {requirement}: crop to that or leave crop out")
    resize_text = shape_text(resize) if isinstance(resize, tuple) else str(resize)
    if crop is None and isinstance(resize, tuple) and resize != (height, width):
        raise UsageError(f"--preprocess: resize={resize_text} with crop=none, but {requirement}: resize to that")
    if crop is None and isinstance(resize, int):
        raise UsageError(
            f"--preprocess: resize={resize_text} keeps the aspect ratio, which needs a crop: leave out crop=none"
        )
    short = isinstance(resize, int) and resize < min(height, width)
    if short or (isinstance(resize, tuple) and (resize[0] < height or resize[1] < width)):
        raise UsageError(
            f"--preprocess: resize={resize_text} leaves too little to crop, since {requirement}: resize to more"
        )
    return height, width


def _per_channel(values: tuple[float, ...], channels: int) -> NDArray[np.float64]:
    """Return one value per channel; gray and a fourth channel take the average of the three colours."""
    if len(values) == 1:
        return np.full(channels, values[0])
    if len(values) != 3:
        raise UsageError(f"the preprocessing has {len(values)} means or scales: give 1 or 3")
    average = float(np.mean(values))
    return np.array({1: (average,), 3: values, 4: (*values, average)}[channels])
