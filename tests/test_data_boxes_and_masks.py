"""Labelled boxes and masks go where the pixels of their photos go, and bad labels are refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from onnx_lowrank.data.labelled import Labelled, load_test, task_of
from onnx_lowrank.data.labelled_boxes import BoxLabels
from onnx_lowrank.data.labelled_masks import MaskLabels
from onnx_lowrank.data.photos.preprocess import parse
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

HEIGHT, WIDTH = 48, 64
SPECS = (TensorSpec("x", np.dtype(np.float32), ("N", 3, HEIGHT, WIDTH)),)
GEOMETRIES = ("raw", "raw,crop=none", "raw,resize=60", "raw,resize=96x128", "raw,resize=48x64,crop=none")
PHOTO = (120, 100)
"""Height and width of a photo, which is taller than the input."""


def loaded(path: Path, preprocess: str = "raw", warnings: list[str] | None = None) -> Labelled:
    warn = (warnings if warnings is not None else []).append
    return load_test(path, SPECS, parse(preprocess), on_warning=warn)


def rectangle(top: int, left: int, bottom: int, right: int) -> NDArray[np.uint8]:
    """A photo [height, width] with a white rectangle."""
    pixels = np.zeros(PHOTO, np.uint8)
    pixels[top:bottom, left:right] = 255
    return pixels


RECTANGLES = [(40, 30, 80, 70), (45, 20, 75, 40), (50, 50, 70, 90), (10, 10, 110, 90)]


def coco(folder: Path, **changes: Any) -> dict[str, Any]:
    """Photos of rectangles in ``images``, and the content of a COCO file with their boxes."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, (top, left, bottom, right) in enumerate(RECTANGLES):
        Image.fromarray(rectangle(top, left, bottom, right)).save(folder / "images" / f"{number}.png")
        images.append({"id": 10 + number, "file_name": f"{number}.png", "height": PHOTO[0], "width": PHOTO[1]})
        box = [left, top, right - left, bottom - top]
        annotations.append({"image_id": 10 + number, "category_id": (7, 3)[number % 2], "bbox": box})
    return {"images": images, "annotations": annotations, "categories": [{"id": 7}, {"id": 3}]} | changes


def written(folder: Path, content: object, name: str = "instances.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("preprocess", GEOMETRIES)
def test_a_box_is_where_its_pixels_are(tmp_path: Path, preprocess: str) -> None:
    source, labels = loaded(written(tmp_path, coco(tmp_path)), preprocess)
    assert isinstance(labels, BoxLabels) and labels.ids == (3, 7) and task_of(labels) == "detection"
    for index, boxes in enumerate(labels.boxes):
        bright = source.feeds([index])["x"][0, 0] > 127
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(boxes.corners[0], seen, atol=1.0)
        assert boxes.classes.tolist() == [1 - index % 2]


@pytest.mark.parametrize("preprocess", GEOMETRIES)
def test_a_mask_is_where_its_photo_is(tmp_path: Path, preprocess: str) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, place in enumerate(RECTANGLES):
        pixels = rectangle(*place)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(np.where(pixels > 0, number + 1, 0).astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    source, labels = loaded(tmp_path, preprocess)
    assert isinstance(labels, MaskLabels) and len(labels) == len(RECTANGLES) and task_of(labels) == "segmentation"
    for index in range(len(labels)):
        bright, mask = source.feeds([index])["x"][0, 0] > 127, labels.read(index)
        assert mask.shape == (HEIGHT, WIDTH) and set(np.unique(mask)) - {0} == {index + 1}
        assert ((mask > 0) == bright).mean() > 0.95


def test_boxes_may_be_drawn_on_a_photo_of_another_size(tmp_path: Path) -> None:
    content = coco(tmp_path)
    _, expected = loaded(written(tmp_path, content))
    for image in content["images"]:
        image["height"], image["width"] = 2 * PHOTO[0], 3 * PHOTO[1]
    for record in content["annotations"]:
        x, y, width, height = record["bbox"]
        record["bbox"] = [3 * x, 2 * y, 3 * width, 2 * height]
    _, labels = loaded(written(tmp_path, content))
    assert isinstance(expected, BoxLabels) and isinstance(labels, BoxLabels)
    for one, other in zip(labels.boxes, expected.boxes, strict=True):
        np.testing.assert_allclose(one.corners, other.corners)


def test_what_the_crop_cuts_does_not_count_and_crowds_are_ignored(tmp_path: Path) -> None:
    content = coco(tmp_path)
    boxes = [[0, 0, 100, 10], [0, 0, 100, 40], [0, 0, 100, 120], [30, 50, 20, 20]]
    for record, box in zip(content["annotations"], boxes, strict=True):
        record |= {"image_id": 10, "bbox": box}
    content["annotations"][3]["iscrowd"] = 1
    _, labels = loaded(written(tmp_path, content), "raw,resize=64")
    assert isinstance(labels, BoxLabels)
    # The photo becomes 77 × 64, and rows 14 to 62 are left: nothing of the first, few of the second, most of the third.
    assert labels.boxes[0].ignored.tolist() == [True, False, True] and len(labels.boxes[1]) == 0


@pytest.mark.parametrize("place", ["beside", "images", "coco"])
def test_photos_are_found_where_they_usually_lie(tmp_path: Path, place: str) -> None:
    content = coco(tmp_path)
    folder, path = {
        "beside": (tmp_path, tmp_path / "labels.json"),
        "images": (tmp_path / "images", tmp_path / "_annotations.coco.json"),
        "coco": (tmp_path / "val2017", tmp_path / "annotations" / "instances_val2017.json"),
    }[place]
    path.parent.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    for photo in (tmp_path / "images").iterdir():
        photo.rename(folder / photo.name)
    written(path.parent, content, path.name)
    for given in (path, path.parent):
        source, labels = loaded(given)
        assert len(source) == len(labels) == len(RECTANGLES)


def test_photos_that_are_missing_or_damaged_are_left_out_with_their_boxes(tmp_path: Path) -> None:
    path = written(tmp_path, coco(tmp_path))
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "2.png").write_bytes(b"")
    warnings = list[str]()
    source, labels = loaded(path, warnings=warnings)
    assert isinstance(labels, BoxLabels) and len(source) == 2 and len(warnings) == 2
    assert f"{path}: 1 of its 4 images are not there: left out" in warnings
    assert [boxes.classes.tolist() for boxes in labels.boxes] == [[1], [0]]


BAD_COCO: dict[str, tuple[dict[str, Any], str]] = {
    "no images": ({"images": []}, "has no list of images"),
    "no boxes": ({"annotations": "none"}, "has no list of annotations"),
    "a photo without a name": ({"images": [{"id": 10}]}, "has an image without a file_name"),
    "a photo without a number": ({"images": [{"file_name": "0.png"}]}, "has id None, which names no image"),
    "no such photo": ({"images": [{"id": 10, "file_name": "a.png"}]}, "none of its 1 image lies beside it"),
    "an unhashable image": ({"annotations": [{"image_id": [], "category_id": 3}]}, r"has image_id \[\]"),
    "three numbers": ({"annotations": [{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3]}]}, "not four numbers"),
    "no number": ({"annotations": [{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, "4"]}]}, "not four numbers"),
    "infinite": ({"annotations": [{"image_id": 10, "category_id": 3, "bbox": [1, 2, 3, 1e999]}]}, "not four numbers"),
    "another category": ({"annotations": [{"image_id": 10, "category_id": 5, "bbox": [1, 2, 3, 4]}]}, "category_id 5"),
    "named categories": ({"categories": [{"id": "cat"}]}, "has id 'cat' for a category"),
}


@pytest.mark.parametrize("case", BAD_COCO)
def test_unfit_boxes_are_refused(tmp_path: Path, case: str) -> None:
    changes, message = BAD_COCO[case]
    with pytest.raises(DataError, match=message) as refused:
        loaded(written(tmp_path, coco(tmp_path, **changes)))
    assert "\n" not in str(refused.value) and str(tmp_path) in str(refused.value)


def test_files_that_are_no_boxes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        loaded(tmp_path / "a.json")
    with pytest.raises(DataError, match=r"cannot read .*b\.json"):
        loaded(tmp_path / "b.json")
    with pytest.raises(DataError, match="holds no object with images"):
        loaded(written(tmp_path, [1], "c.json"))
    for name in ("d.json", "e.json"):
        written(tmp_path, coco(tmp_path), name)
    with pytest.raises(DataError, match=r"holds several COCO files \(d\.json, e\.json\)"):
        loaded(tmp_path)


def test_other_json_files_do_not_turn_classes_into_boxes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(rectangle(0, 0, 9, 9)).save(tmp_path / name / "0.png")
    written(tmp_path, {"cat": 0, "dog": 1}, "classes.json")
    _, labels = loaded(tmp_path)
    assert isinstance(labels, np.ndarray) and labels.tolist() == [0, 1]


def stored(folder: Path, masks: NDArray[Any], key: str = "masks") -> Path:
    arrays: dict[str, Any] = {"x": np.zeros((5, 3, HEIGHT, WIDTH), np.float32), key: masks}
    np.savez(folder / "test.npz", **arrays)
    return folder / "test.npz"


@pytest.mark.parametrize("shape", [(5, HEIGHT, WIDTH), (5, 1, HEIGHT, WIDTH), (5, HEIGHT, WIDTH, 1)])
@pytest.mark.parametrize("key", ["masks", "mask"])
def test_masks_in_arrays(tmp_path: Path, shape: tuple[int, ...], key: str) -> None:
    masks = np.random.default_rng(0).choice([0, 1, 7, 255], size=shape).astype(np.uint8)
    source, labels = loaded(stored(tmp_path, masks, key))
    assert isinstance(labels, MaskLabels) and len(source) == len(labels) == 5
    flat = masks.reshape(5, HEIGHT, WIDTH).astype(int)
    np.testing.assert_array_equal(labels.read(3), np.where(flat[3] == 255, -1, flat[3]))


def test_white_is_a_class_where_nothing_else_is(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).choice([0, 255], size=(5, HEIGHT, WIDTH)).astype(np.uint8)
    _, labels = loaded(stored(tmp_path, masks))
    assert isinstance(labels, MaskLabels)
    np.testing.assert_array_equal(labels.read(0), masks[0] // 255)


@pytest.mark.parametrize(
    "masks",
    [np.zeros((4, HEIGHT, WIDTH), np.uint8), np.zeros((5, HEIGHT, WIDTH), np.float32), np.zeros((5, 9), np.uint8)],
    ids=["too few", "no integers", "no maps"],
)
def test_unfit_masks_are_refused(tmp_path: Path, masks: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"array 'masks' is .*, not one map of integer class numbers for each of the 5"):
        loaded(stored(tmp_path, masks))


def test_unfit_mask_files_are_refused(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(rectangle(0, 0, 9, 9)).save(tmp_path / "images" / "a.png")
    with pytest.raises(DataError, match="no photo in images has a mask of the same name"):
        loaded(tmp_path)
    mask = tmp_path / "masks" / "a.png"
    Image.new("RGB", PHOTO[::-1]).save(mask)
    with pytest.raises(DataError, match=r"mask .*a\.png has colours \(RGB\)"):
        loaded(tmp_path)
    mask.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"mask .*a\.png cannot be read"):
        loaded(tmp_path)
    Image.new("L", PHOTO).save(mask)
    with pytest.raises(DataError, match="lies on its side"):
        loaded(tmp_path)
