"""Photos or arrays with the class of every pixel.

A folder has photos in ``images`` and a mask of the same name, up to the ending, for each in ``masks``: an image of one
channel, or with a palette, whose values are the classes. A mask goes through the same resizing and cropping as its
photo, without blending classes. An ``.npz`` has the arrays of the inputs, and class numbers [n, height, width] under
"masks" or "mask". The value 255, and any that is negative, marks pixels that do not count; a mask of 0 and 255 alone
has one class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.data.arranged import arranged, without_axis
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.draw import Draw, once
from onnx_lowrank.data.messages import array_label, plural, reason, some
from onnx_lowrank.data.npy_files import read_array, read_headers
from onnx_lowrank.data.parts import MASK_KEYS, file_part, gather
from onnx_lowrank.data.photos.decode import upright_size
from onnx_lowrank.data.photos.folder import is_image, list_files, open_images
from onnx_lowrank.data.photos.placement import placement
from onnx_lowrank.data.photos.preprocess import OpenSize, Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Warn

UNKNOWN = 255
"""The value of pixels that nobody labelled."""

Map = NDArray[np.int64]


@dataclass(frozen=True)
class MaskLabels:
    """The true class of every pixel of every sample.

    Attributes
    ----------
    count
        The number of samples.
    read
        Returns the map of one sample, [height, width] of the input, with −1 for pixels that do not count.
    """

    count: int
    read: Callable[[int], Map]

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.count


def load_masks(
    folder: Path, specs: tuple[TensorSpec, ...], preprocess: Preprocess, warn: Warn
) -> tuple[Source, MaskLabels]:
    """Open the photos and masks of a folder.

    Raises
    ------
    DataError
        If photos or masks cannot be read, or no photo has a mask.
    """
    photos = [file for file in list_files(folder / "images") if is_image(file)]
    masks = {_key(file, folder / "masks"): file for file in list_files(folder / "masks") if is_image(file)}
    paired = [file for file in photos if _key(file, folder / "images") in masks]
    if not paired:
        raise DataError(f"{folder}: no photo in images has a mask of the same name in masks: name them alike")
    if len(paired) < len(photos):
        missing = [file.name for file in photos if file not in paired]
        warn(f"{folder}: {plural(len(missing), 'photo')} without a mask left out: {some(missing)}")
    asked = tuple(spec for spec in specs if spec.read) or specs
    source, readable = open_images(paired, folder / "images", asked, preprocess, Draw(None, warn=once(warn)))
    pairs = [(paired[index], masks[_key(paired[index], folder / "images")]) for index in readable.tolist()]
    one_class = [_has_one_class(np.unique(_checked(photo, mask))) for photo, mask in pairs]
    binary = all(one_class)

    def read(index: int) -> Map:
        return _placed(*pairs[index], source.target.size, preprocess, binary)

    return arranged(source, specs), MaskLabels(len(pairs), read)


def load_stored_masks(path: Path, specs: tuple[TensorSpec, ...], warn: Warn) -> tuple[Source, MaskLabels]:
    """Open the arrays and masks of an ``.npz``.

    Raises
    ------
    DataError
        If the arrays do not fit the inputs, or the masks do not fit the arrays.
    """
    inputs, specs = specs, tuple(spec for spec in specs if spec.read) or specs
    part = file_part(path, specs, once(warn))
    key = next(key for key in MASK_KEYS if key in read_headers(path))
    masks = read_array(path, key)
    if masks.ndim == 4 and 1 in (masks.shape[1], masks.shape[3]):
        masks = masks[:, 0] if masks.shape[1] == 1 else masks[..., 0]
    if masks.ndim != 3 or len(masks) != part.rows or not masks.size or masks.dtype.kind not in "iub":
        raise DataError(
            f"{array_label(path, key)} is {masks.dtype} of shape {masks.shape}, not one map of integer class numbers "
            f"for each of the {part.rows} samples: store [{part.rows}, height, width]"
        )
    arrays = gather([part], np.arange(part.rows), specs)
    source = ArraySource(arrays, f"{plural(part.rows, 'labelled sample')} in {path.name}", whole=without_axis(specs))
    binary = _has_one_class(np.unique(masks))
    return arranged(source, inputs), MaskLabels(part.rows, lambda index: _classes(masks[index], binary))


def _key(file: Path, folder: Path) -> Path:
    return file.relative_to(folder).with_suffix("")


def _open(path: Path) -> Image.Image:
    """Open a mask without turning its values to colours.

    Raises
    ------
    DataError
        If it cannot be read or has several channels.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mask = image.copy()
    except Exception as error:  # Pillow's plug-ins raise almost any error on damaged files
        raise DataError(f"mask {path} cannot be read ({reason(error)}): save it as .png") from error
    if mask.mode not in ("1", "L", "P") and not mask.mode.startswith("I"):
        raise DataError(f"mask {path} has colours ({mask.mode}): save the class numbers as an image of one channel")
    return mask


def _checked(photo: Path, path: Path) -> NDArray[np.generic]:
    """Return the values of a mask that is turned as its photo is.

    Raises
    ------
    DataError
        If it cannot be read, has several channels, or lies on its side.
    """
    mask = _open(path)
    actual = upright_size(photo)
    if (mask.height, mask.width) == actual[::-1] != actual:
        raise DataError(f"mask {path} lies on its side beside {photo.name}: turn it as the photo is shown")
    return np.asarray(mask)


def _has_one_class(values: NDArray[np.generic]) -> bool:
    """Return whether there are only 0 and 255, which is white and no missing label."""
    return set(values.tolist()) <= {0, UNKNOWN}


def _placed(photo: Path, path: Path, size: OpenSize, preprocess: Preprocess, binary: bool) -> Map:
    """Return the classes of a mask where the pixels of its photo come to lie."""
    values = _checked(photo, path)
    place = placement(upright_size(photo), size, preprocess)
    rows, columns = (
        np.minimum((np.arange(wanted) + start + 0.5) * given / resized, given - 1).astype(np.int64)
        for wanted, start, given, resized in zip(
            place.size, (place.top, place.left), values.shape, place.resized, strict=True
        )
    )
    return _classes(values[rows[:, None], columns], binary)


def _classes(values: NDArray[np.generic], binary: bool) -> Map:
    """Return class numbers, with −1 for pixels that do not count."""
    classes: Map = np.asarray(values).astype(np.int64)
    if binary:
        return np.where(classes != 0, 1, 0)
    return np.where((classes == UNKNOWN) | (classes < 0), -1, classes)


def maps_of(labels: MaskLabels, samples: Sequence[int]) -> list[Map]:
    """Return the maps of some samples."""
    return [labels.read(sample) for sample in samples]
