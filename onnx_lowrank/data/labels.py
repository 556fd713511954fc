"""Labelled samples, to measure accuracy: an ``.npz`` with labels, or a folder with one sub-folder per class."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arrays import ArraySource
from onnx_lowrank.data.choose import choose, counted, once
from onnx_lowrank.data.npy_files import headers, read
from onnx_lowrank.data.parts import LABEL_KEYS, file_part, gather
from onnx_lowrank.data.photos.folder import is_image, list_files, open_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

Labelled: TypeAlias = tuple[Source, NDArray[np.int64]]
"""Samples, and the label of each, shape [n]."""


def load_labelled(
    path: str | os.PathLike[str],
    specs: tuple[TensorSpec, ...],
    preprocess: Preprocess,
    *,
    on_warning: Callable[[str], None] | None = None,
    count: int | None = None,
    seed: int = 0,
) -> Labelled:
    """Open labelled samples.

    Parameters
    ----------
    path
        An ``.npz`` with the inputs and "labels", "label" or "y" [n], or a folder whose sub-folders are the classes:
        a class's number is its place in the sorted order of their names, as torchvision and Keras count.
    specs
        The model's inputs.
    preprocess
        How photos become inputs.
    on_warning
        Told what is left out or converted; None: nobody is.
    count, seed
        How many samples, chosen with which seed; None takes all in their own order.

    Returns
    -------
    Labelled
        The samples, and the label of each.

    Raises
    ------
    DataError
        If samples or labels cannot be read or do not fit.
    """
    path = Path(path)
    warn = once(on_warning or (lambda text: None))
    if path.is_dir():
        return _from_folders(path, specs, preprocess, warn, count, seed)
    if not path.is_file() or path.suffix.lower() != ".npz":
        raise DataError(f"{path} is neither an .npz with labels nor a folder with one sub-folder per class: give one")
    return _from_npz(path, specs, warn, count, seed)


def _from_npz(
    path: Path, specs: tuple[TensorSpec, ...], warn: Callable[[str], None], count: int | None, seed: int
) -> Labelled:
    found = headers(path)
    key = next((key for key in LABEL_KEYS if key in found), None)
    if key is None:
        raise DataError(f"{path} holds {', '.join(found) or 'nothing'}, but no labels: add them as 'labels'")
    part = file_part(path, specs, warn)
    labels = read(path, key)
    if labels.shape == (part.rows, 1):
        labels = labels[:, 0]
    if labels.shape != (part.rows,) or labels.dtype.kind not in "iu" or not part.rows:
        raise DataError(
            f"{path}, array {key!r} is {labels.dtype} of shape {labels.shape}, not one class number (an integer) for "
            f"each of the {part.rows} samples: store class numbers"
        )
    if labels.min() < 0:
        raise DataError(f"{path}, array {key!r} holds {labels.min()}: class numbers start at 0")
    chosen = choose(part.rows, count, seed)
    description = counted(len(chosen), part.rows, f"labelled samples in {path.name}")
    return ArraySource(gather([part], chosen, specs), description), labels[chosen].astype(np.int64)


def _from_folders(
    path: Path,
    specs: tuple[TensorSpec, ...],
    preprocess: Preprocess,
    warn: Callable[[str], None],
    count: int | None,
    seed: int,
) -> Labelled:
    classes = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [file for file in list_files(path) if is_image(file) and file.parent != path]
    if not files:
        raise DataError(f"{path} holds no images in sub-folders: make one sub-folder per class, with its images")
    if all(name.isdecimal() for name in classes) and classes != sorted(classes, key=int):
        warn(
            f"{path}: the class folders are numbers and are counted in the order of their text ({classes[0]}, "
            f"{classes[1]}, {classes[2]}, ...), as torchvision does; pad them with zeros for numeric order"
        )
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[file.relative_to(path).parts[0]] for file in files], np.int64)
    source, taken = open_images(files, path, specs, preprocess=preprocess, count=count, seed=seed, on_warning=warn)
    return source, labels[taken]
