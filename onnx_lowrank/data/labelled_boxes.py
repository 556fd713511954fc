"""Photos with the boxes of a COCO file.

The photos lie beside the file, in a folder ``images`` beside it, or where COCO and its copies keep them. Boxes go
through the same resizing and cropping. Of a box that the crop cuts, the rest counts; where less than half of it is
left, it is neither to be found nor wrong if it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.arranged import arranged
from onnx_lowrank.data.coco_file import read_coco_file
from onnx_lowrank.data.draw import Draw, once
from onnx_lowrank.data.messages import plural
from onnx_lowrank.data.photos.decode import upright_size
from onnx_lowrank.data.photos.folder import open_images
from onnx_lowrank.data.photos.placement import Placement, placement
from onnx_lowrank.data.photos.preprocess import Preprocess, Size
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.measures.boxes import Boxes
from onnx_lowrank.progress import Warn

LEAST_LEFT = 0.5
"""The share of a box that has to be in the crop."""


@dataclass(frozen=True)
class BoxLabels:
    """The true boxes of every sample.

    Attributes
    ----------
    boxes
        In pixels of the input; the classes are places in ``ids``.
    ids
        The ids of the categories, in ascending order.
    """

    boxes: tuple[Boxes, ...]
    ids: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.boxes)


def load_boxes(
    path: Path, specs: tuple[TensorSpec, ...], preprocess: Preprocess, warn: Warn
) -> tuple[Source, BoxLabels]:
    """Open photos with labelled boxes, in the order of their file.

    Parameters
    ----------
    path
        The COCO file.
    specs, preprocess
        The model's inputs, and how photos become one.
    warn
        Receives a line for photos that are left out.

    Raises
    ------
    DataError
        If the file is of another kind, or no photo of it is there.
    """
    listed, ids = read_coco_file(path)
    places = _files(path, [photo.name for photo in listed])
    present = [(photo, file) for photo, file in zip(listed, places, strict=True) if file is not None]
    if not present:
        where = path.parent / "images"
        raise DataError(f"{path}: none of its {plural(len(listed), 'image')} lies beside it: put them into {where}")
    if len(present) < len(listed):
        warn(f"{path}: {len(listed) - len(present)} of its {len(listed)} images are not there: left out")
    asked = tuple(spec for spec in specs if spec.read) or specs
    draw = Draw(None, warn=once(warn))
    source, readable = open_images([file for _, file in present], path.parent, asked, preprocess, draw)
    boxes = []
    for index in readable.tolist():
        photo, file = present[index]
        actual = upright_size(file)
        place = placement(actual, source.target.size, preprocess)
        boxes.append(_placed(photo.boxes, photo.size or actual, place))
    return arranged(source, specs), BoxLabels(tuple(boxes), ids)


def _files(path: Path, names: Sequence[str]) -> list[Path | None]:
    """Return the photo of every name; None where there is none."""
    folder, stem = path.parent, path.stem.removeprefix("instances_")
    places = [folder, folder / "images", folder / stem, folder.parent / "images", folder.parent / stem, folder.parent]
    return [next((place / name for place in places if (place / name).is_file()), None) for name in names]


def _placed(boxes: Boxes, size: Size, place: Placement) -> Boxes:
    """Return boxes that were drawn on a photo of this height and width in pixels of the input."""
    scale = np.array([place.resized[1] / size[1], place.resized[0] / size[0]] * 2)
    moved = boxes.corners * scale - np.array([place.left, place.top] * 2)
    cut = np.clip(moved, 0, np.array([place.size[1], place.size[0]] * 2))
    shares = _areas(cut) / np.maximum(_areas(moved), 1e-9)
    return Boxes(cut, boxes.scores, boxes.classes, boxes.ignored | (shares < LEAST_LEFT))[shares > 0]


def _areas(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    return areas
