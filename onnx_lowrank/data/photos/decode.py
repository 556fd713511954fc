"""The decoding of a photo file to 8-bit pixels of the model's size.

Every kind of image (palette, CMYK, 16 bits, alpha, several frames) becomes plain RGB or gray as in the usual pipelines:
alpha is dropped, and the first frame is taken. A photo that its camera marked as turned (EXIF) is turned upright.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from onnx_lowrank.data.messages import reason
from onnx_lowrank.data.photos.preprocess import OpenSize, Preprocess, Size
from onnx_lowrank.files import placeholder_at

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def decode(path: Path, channels: int, size: OpenSize, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Read a photo, resample and crop it.

    Parameters
    ----------
    path
        The file.
    channels
        1 for gray, 3 for RGB.
    size
        Height and width of the result; None where the photo keeps its own.
    preprocess
        How the photo is resized and cropped.

    Returns
    -------
    NDArray[np.uint8]
        Pixels, shape [height, width, channels].

    Raises
    ------
    ValueError
        If the photo cannot be read or cannot be brought to that size. The text is only the reason, without the path.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of transparency, which is dropped on purpose, and of truncated files; unusable ones raise.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                photo = _eight_bits(_upright(image), "L" if channels == 1 else "RGB")
    except Exception as error:
        # Pillow's plug-ins raise almost any error on truncated or damaged files (OSError, SyntaxError, zlib.error,
        # struct.error, DecompressionBombError, ...), and none of them may end a run of hours.
        found = placeholder_at(path)
        raise ValueError(f"it is {found}" if found else f"{type(error).__name__}: {reason(error)}") from error
    fitted = _fit(photo, size, preprocess)
    return np.asarray(fitted).reshape(fitted.height, fitted.width, channels)


def _upright(image: Image.Image) -> Image.Image:
    """Turn a photo as its EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # of many kinds: damaged EXIF says nothing, and damaged pixels are found where they are read
        return image


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Convert any image to 8 bits a channel; ``mode`` is "RGB" or "L"."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # 16-bit gray; convert() would clip it to 255 instead of scaling it
        gray = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).convert(mode)
    return image.convert(mode)


def _fit(photo: Image.Image, wanted: OpenSize, preprocess: Preprocess) -> Image.Image:
    """Resize and crop a photo to the size that is wanted, as :mod:`~onnx_lowrank.data.photos.preprocess` describes.

    Raises
    ------
    ValueError
        If the options forbid the resampling that this photo would need.
    """
    actual = (photo.height, photo.width)
    height, width = wanted
    if height is None or width is None:
        own = _own_size(actual, preprocess)
        size: Size = (own[0] if height is None else height, own[1] if width is None else width)
        resized = own
    else:
        size = (height, width)
        resized = _resized(actual, size, preprocess)
    if resized[0] < size[0] or resized[1] < size[1] or (preprocess.crop is None and resized != size):
        sides = "x".join("?" if side is None else str(side) for side in wanted)
        cause = "resize=none forbids resampling"
        if preprocess.resize is not None:
            cause = f"resize={preprocess.resize} makes it {resized[0]}x{resized[1]}"
        raise ValueError(f"it is {actual[0]}x{actual[1]}, not {sides}, and {cause}")
    if resized != actual:
        photo = photo.resize((resized[1], resized[0]), _FILTERS[preprocess.interpolation])
    if resized == size:
        return photo
    top, left = (
        round((side - cropped) / 2) for side, cropped in zip(resized, size, strict=True)
    )  # as torchvision rounds
    return photo.crop((left, top, left + size[1], top + size[0]))


def _own_size(actual: Size, preprocess: Preprocess) -> Size:
    """Return the size of a photo that keeps its own, or its aspect ratio."""
    shorter = preprocess.resize
    return _cover(actual, (shorter, shorter)) if isinstance(shorter, int) else actual


def _resized(actual: Size, size: Size, preprocess: Preprocess) -> Size:
    """Return the size to resample to before the crop."""
    resize = preprocess.resize
    if resize is None:
        return actual
    if isinstance(resize, tuple):
        return resize
    if isinstance(resize, int):
        covering = _cover(actual, (resize, resize))
        # An elongated input may need more than the given shorter side.
        return covering if covering[0] >= size[0] and covering[1] >= size[1] else _cover(actual, size)
    if actual == size or preprocess.crop is None:
        return size
    return _cover(actual, (round(size[0] * 256 / 224), round(size[1] * 256 / 224)))


def _cover(actual: Size, target: Size) -> Size:
    """Return the smallest size with the aspect ratio of ``actual`` that covers ``target``."""
    height, width = actual
    if target[0] * width >= target[1] * height:
        return target[0], max(target[1], width * target[0] // height)
    return max(target[0], height * target[1] // width), target[1]
