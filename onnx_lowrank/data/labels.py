"""Labelled samples, which measure accuracy: an ``.npz`` with labels, or a folder with one sub-folder per class."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arranged import arranged, without_axis
from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.draw import Draw, once
from onnx_lowrank.data.messages import array_label, plural
from onnx_lowrank.data.npy_files import read_array, read_headers
from onnx_lowrank.data.parts import LABEL_KEYS, file_part, gather
from onnx_lowrank.data.photos.folder import is_image, left_out, list_files, open_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Warn, ignore

Labelled: TypeAlias = tuple[Source, NDArray[np.int64]]
"""Samples, and the class number of each, shape [n]."""


def load_labelled(
    path: str | os.PathLike[str],
    specs: tuple[TensorSpec, ...],
    preprocess: Preprocess,
    *,
    on_warning: Warn = ignore,
) -> Labelled:
    """Open labelled samples, all of them in the order in which they are stored.

    Parameters
    ----------
    path
        An ``.npz`` with an array for each input and class numbers under "labels", "label" or "y", shape [n]; or a
        folder whose sub-folders are the classes. The number of such a class is its place in the sorted order of their
        names, as in torchvision and Keras.
    specs
        The model's inputs.
    preprocess
        How photos become inputs.
    on_warning
        Receives a line for each sample that is left out and for each conversion worth knowing.

    Returns
    -------
    Labelled
        The samples, and the class number of each.

    Raises
    ------
    DataError
        If samples or labels cannot be read or do not fit.
    """
    path = Path(path)
    warn = once(on_warning)
    if path.is_dir():
        return _from_folders(path, specs, preprocess, warn)
    if not path.is_file() or path.suffix.lower() != ".npz":
        raise DataError(f"{path} is neither an .npz with labels nor a folder with one sub-folder per class: give one")
    return _from_npz(path, specs, warn)


def _from_npz(path: Path, specs: tuple[TensorSpec, ...], warn: Warn) -> Labelled:
    headers = read_headers(path)
    key = next((key for key in LABEL_KEYS if key in headers), None)
    if key is None:
        raise DataError(f"{path} holds {', '.join(headers) or 'nothing'}, but no labels: add them as 'labels'")
    inputs, specs = specs, tuple(spec for spec in specs if spec.read) or specs
    part = file_part(path, specs, warn)
    labels, label = read_array(path, key), array_label(path, key)
    if labels.shape == (part.rows, 1):
        labels = labels[:, 0]
    if labels.shape != (part.rows,) or labels.dtype.kind not in "iu" or not part.rows:
        raise DataError(
            f"{label} is {labels.dtype} of shape {labels.shape}, not one class number (an integer) for "
            f"each of the {part.rows} samples: store class numbers"
        )
    if labels.min() < 0:
        raise DataError(f"{label} holds {labels.min()}: class numbers start at 0")
    arrays = gather([part], np.arange(part.rows), specs)
    description = f"{plural(part.rows, 'labelled sample')} in {path.name}"
    source = ArraySource(arrays, description, whole=without_axis(specs))
    return arranged(source, inputs), labels.astype(np.int64)


def _from_folders(path: Path, specs: tuple[TensorSpec, ...], preprocess: Preprocess, warn: Warn) -> Labelled:
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    present = list_files(path)
    photos = [file for file in present if is_image(file)]
    files = [file for file in photos if file.parent != path]
    if not files:
        raise DataError(f"{path} holds no images in sub-folders: make one sub-folder per class, with its images")
    if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        warn(
            f"{path}: the class folders have numbers for names, and the classes are counted in the alphabetical order "
            f"of these ({', '.join(classes[:3])}, ...), as in torchvision; pad the names with zeros for numeric order"
        )
    if len(files) < len(photos):
        several = len(photos) - len(files) > 1
        warn(
            f"{plural(len(photos) - len(files), 'photo')} directly in {path} left out: "
            f"{'they are' if several else 'it is'} in no class folder"
        )
    if line := left_out(path, [file for file in present if not is_image(file)], []):
        warn(line)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers[file.relative_to(path).parts[0]] for file in files], np.int64)
    asked = tuple(spec for spec in specs if spec.read) or specs
    source, readable = open_images(files, path, asked, preprocess, Draw(None, warn=warn))
    return arranged(source, specs), labels[readable]
