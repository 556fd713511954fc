"""Labelled boxes in a JSON file as COCO defines it.

The file has "images" (id, file_name, and mostly width and height), "annotations" (image_id, category_id, bbox as x, y,
width and height in pixels of the photo, and perhaps iscrowd) and "categories" (id).
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.messages import reason, some
from onnx_lowrank.data.photos.preprocess import Size
from onnx_lowrank.errors import DataError
from onnx_lowrank.measures.boxes import Boxes

ADVICE = "give a COCO file of boxes"

Record = dict[str, Any]


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo of the file.

    Attributes
    ----------
    name
        The name of its file, perhaps with folders.
    size
        The height and width on which the boxes were drawn; None where the file does not state them.
    boxes
        The boxes in its pixels; their classes are places in the sorted ids, and what is ignored are crowds.
    """

    name: str
    size: Size | None
    boxes: Boxes


def find_coco_file(path: Path) -> Path | None:
    """Return the COCO file that a path names or that lies in the folder it names; None if there is none.

    Raises
    ------
    DataError
        If the folder holds several of them.
    """
    if path.suffix.lower() == ".json":
        return path
    if not path.is_dir():
        return None
    found = [file for file in sorted(path.glob("*.json")) if not file.name.startswith(".") and _is_coco(file)]
    preferred = path / "instances.json"
    if preferred in found:
        return preferred
    if len(found) > 1:
        raise DataError(f"{path} holds several COCO files ({some([file.name for file in found])}): name one of them")
    return found[0] if found else None


def _is_coco(path: Path) -> bool:
    try:
        stored = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(stored, dict) and {"images", "annotations"} <= stored.keys()


def read_coco_file(path: Path) -> tuple[list[LabelledPhoto], tuple[int, ...]]:
    """Return the photos of a COCO file, in its order, and the ids of its categories in ascending order.

    Raises
    ------
    DataError
        If the file cannot be read or is of another kind.
    """
    try:
        stored = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({reason(error)}): {ADVICE}") from error
    if not isinstance(stored, dict):
        raise DataError(f"{path} holds no object with images, annotations and categories: {ADVICE}")
    images, annotations = (_records(path, stored, key) for key in ("images", "annotations"))
    named = bool(stored.get("categories"))
    categories = _records(path, stored, "categories") if named else annotations
    ids = tuple(sorted({_whole(path, record, "id" if named else "category_id") for record in categories}))
    by_image: dict[int | str, list[Record]] = {}
    for record in annotations:
        by_image.setdefault(_identity(path, record, "image_id"), []).append(record)
    return [_photo(path, image, by_image.get(_identity(path, image, "id"), []), ids) for image in images], ids


def _records(path: Path, stored: Record, key: str) -> list[Record]:
    records = stored.get(key)
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path} has no list of {key}: {ADVICE}")
    return records


def _identity(path: Path, record: Record, key: str) -> int | str:
    value = record.get(key)
    if not isinstance(value, int | str):
        raise DataError(f"{path} has {key} {value!r}, which names no image: {ADVICE}")
    return value


def _whole(path: Path, record: Record, key: str) -> int:
    value = record.get(key)
    if not isinstance(value, int):
        raise DataError(f"{path} has {key} {value!r} for a category, which is no whole number: {ADVICE}")
    return value


def _photo(path: Path, image: Record, annotations: Sequence[Record], ids: tuple[int, ...]) -> LabelledPhoto:
    name, height, width = image.get("file_name"), image.get("height"), image.get("width")
    if not isinstance(name, str) or not name:
        raise DataError(f"{path} has an image without a file_name: {ADVICE}")
    stated = isinstance(height, int) and isinstance(width, int) and min(height, width) > 0
    corners, classes = [], []
    for record in annotations:
        category = record.get("category_id")
        if category not in ids:
            raise DataError(f"{path}: a box in {name} has category_id {category!r}: add it to the categories")
        x, y, box_width, box_height = _sides(path, name, record.get("bbox"))
        corners.append((x, y, x + box_width, y + box_height))
        classes.append(ids.index(category))
    boxes = Boxes(
        np.array(corners, np.float64).reshape(-1, 4),
        np.ones(len(corners)),
        np.array(classes, np.int64),
        _crowds(annotations),
    )
    return LabelledPhoto(name, (height, width) if stated else None, boxes)  # type: ignore[arg-type]


def _crowds(annotations: Sequence[Record]) -> NDArray[np.bool_]:
    return np.array([bool(record.get("iscrowd")) for record in annotations], np.bool_)


def _sides(path: Path, name: str, box: object) -> tuple[float, ...]:
    numbers = list(box) if isinstance(box, list) else []
    if len(numbers) != 4 or not all(isinstance(side, int | float) and math.isfinite(side) for side in numbers):
        raise DataError(f"{path}: a box in {name} has a bbox that is not four numbers: correct it or take it out")
    return tuple(float(side) for side in numbers)
