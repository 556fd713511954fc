"""The decoding of a photo file to 8-bit pixels of the model's size.

Every kind of image (palette, CMYK, 16 bits, alpha, several frames) becomes plain RGB or gray as in the usual pipelines:
alpha is dropped, and the first frame is taken. A photo that its camera marked as turned (EXIF) is turned upright.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from onnx_lowrank.data.messages import reason
from onnx_lowrank.data.photos.placement import placement
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


def upright_size(path: Path) -> Size:
    """Return the height and width that a photo has when it is turned upright, without decoding it.

    Raises
    ------
    OSError
        If the file is no photo.
    """
    with Image.open(path) as image:
        try:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
        except Exception:  # see ``_upright``
            turned = False
        return (image.width, image.height) if turned else (image.height, image.width)


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Convert any image to 8 bits a channel; ``mode`` is "RGB" or "L"."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):  # 16-bit gray; convert() would clip it to 255 instead of scaling it
        gray = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(np.clip(gray, 0, 255).astype(np.uint8)).convert(mode)
    return image.convert(mode)


def _fit(photo: Image.Image, wanted: OpenSize, preprocess: Preprocess) -> Image.Image:
    """Resize and crop a photo to the size that is wanted; see ``placement`` for the errors."""
    place = placement((photo.height, photo.width), wanted, preprocess)
    if place.resized != (photo.height, photo.width):
        photo = photo.resize((place.resized[1], place.resized[0]), _FILTERS[preprocess.interpolation])
    if place.resized == place.size:
        return photo
    return photo.crop((place.left, place.top, place.left + place.size[1], place.top + place.size[0]))
