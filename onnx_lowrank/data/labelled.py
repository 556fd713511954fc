"""The labelled samples of ``--test``, of whichever kind: classes, boxes or masks."""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.coco_file import find_coco_file
from onnx_lowrank.data.labelled_boxes import BoxLabels, load_boxes
from onnx_lowrank.data.labelled_masks import MaskLabels, load_masks, load_stored_masks
from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.npy_files import read_headers
from onnx_lowrank.data.parts import LABEL_KEYS, MASK_KEYS
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Warn

Labels: TypeAlias = NDArray[np.int64] | BoxLabels | MaskLabels
"""The class number of every sample, shape [n]; or its boxes; or its masks."""

TASKS = {BoxLabels: "detection", MaskLabels: "segmentation"}
"""The task that labels of a kind are for."""

Labelled: TypeAlias = tuple[Source, Labels]
"""Samples and their labels."""


def load_test(
    path: str | os.PathLike[str], specs: tuple[TensorSpec, ...], preprocess: Preprocess, *, on_warning: Warn
) -> Labelled:
    """Open labelled samples of any kind.

    Parameters
    ----------
    path
        A COCO JSON, or a folder with one, for boxes; a folder with ``images`` and ``masks``, or an ``.npz`` with
        "masks", for masks; and for classes what :func:`~onnx_lowrank.data.labels.load_labelled` takes.
    specs
        The model's inputs.
    preprocess
        How photos become inputs.
    on_warning
        Receives a line for each sample that is left out and for each conversion worth knowing.

    Raises
    ------
    DataError
        If samples or labels cannot be read or do not fit.
    """
    path = Path(path)
    if (coco := find_coco_file(path)) is not None:
        return load_boxes(coco, specs, preprocess, on_warning)
    if (path / "images").is_dir() and (path / "masks").is_dir():
        return load_masks(path, specs, preprocess, on_warning)
    if path.suffix.lower() == ".npz" and path.is_file():
        keys = read_headers(path).keys()
        if keys & set(MASK_KEYS) and not keys & set(LABEL_KEYS):
            return load_stored_masks(path, specs, on_warning)
    return load_labelled(path, specs, preprocess, on_warning=on_warning)


def task_of(labels: Labels) -> str | None:
    """Return the name of the task that labels are for; None for class numbers, which serve the accuracy."""
    return next((name for kind, name in TASKS.items() if isinstance(labels, kind)), None)
