"""Both models on samples with labelled boxes and masks: here the labels are what the original itself answers."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models_for_tests import run_model
from networks_for_tasks import CLASSES, detector, samples, segmenter
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from onnx_lowrank.calibration.sampling import split
from onnx_lowrank.data.labelled import load_test
from onnx_lowrank.data.photos.preprocess import PRESETS
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes
from onnx_lowrank.measures.detection import Detection
from onnx_lowrank.measures.heads.pixels import Scale
from onnx_lowrank.measures.heads.separate import Separate
from onnx_lowrank.measures.table import recognise
from onnx_lowrank.measures.task import Task
from onnx_lowrank.progress import Listener, ignore
from onnx_lowrank.report.task_schema import LabelledReport
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.labelled import Labelling, measure_labelled
from onnx_lowrank.stages.session_pair import SessionPair

Array = NDArray[Any]

IMAGES = samples(6, seed=9)
SPECS = (TensorSpec("x", np.dtype(np.float32), ("N", 3, 32, 32)),)


def spoiled(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with noise in the weights."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    rng = np.random.default_rng(0)
    for tensor in changed.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim == 4:
            noise = 0.5 * values.std() * rng.normal(size=values.shape)
            tensor.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), tensor.name))
    return changed


def recognised(model: onnx.ModelProto, task: str, head: str = "auto") -> tuple[Task, Batch]:
    batch = Batch(len(IMAGES), {"x": IMAGES}, run_model(model, {"x": IMAGES}))
    (found,) = recognise([batch], task, head)
    return found, batch


def measured(path: Path, model: onnx.ModelProto, task: Task, warnings: list[str] | None = None) -> LabelledReport:
    source, labels = load_test(path, SPECS, PRESETS["unit"], on_warning=ignore)
    assert not isinstance(labels, np.ndarray)
    opened = opener(("cpu",), 1, spinning=False)
    sessions = SessionPair(opened(model, "the model"), opened(spoiled(model), "the other"))
    declared = DeclaredShapes(dict.fromkeys(sessions.original.outputs), frozenset())
    labelling = Labelling(task, source, labels, split(source, SPECS, 0), declared)
    return measure_labelled(sessions, labelling, Listener(warn=(warnings if warnings is not None else []).append))


def photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(np.round(255 * IMAGES).astype(np.uint8).transpose(0, 2, 3, 1)):
        Image.fromarray(image).save(folder / f"{number:02d}.png")


def coco(folder: Path, boxes: list[Boxes], ids: list[int]) -> Path:
    """The photos, and a COCO file of boxes; a class has one of these ids."""
    photos(folder / "images")
    listed = [{"id": number, "file_name": f"{number:02d}.png"} for number in range(len(boxes))]
    annotations = [
        {"image_id": number, "category_id": ids[kind], "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for number, each in enumerate(boxes)
        for (x0, y0, x1, y1), kind in zip(each.corners.tolist(), each.classes.tolist(), strict=True)
    ]
    content = {"images": listed, "annotations": annotations, "categories": [{"id": number} for number in ids]}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_original_is_right_about_masks_of_its_own(tmp_path: Path) -> None:
    task, batch = recognised(segmenter(), "segmentation")
    classes = np.stack(task.answers(batch) or [])
    photos(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    for number, mask in enumerate(classes):
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{number:02d}.png")
    report = measured(tmp_path, segmenter(), task)
    assert (report.task, report.outputs, report.samples) == ("segmentation", ("y",), 6)
    assert report.before["miou"].value == 1.0 > report.after["miou"].value > 0
    np.savez(tmp_path / "test.npz", x=IMAGES, masks=classes)
    assert measured(tmp_path / "test.npz", segmenter(), task) == report


@pytest.mark.parametrize("ids", [[0, 1, 2], [1, 2, 3], [7, 8, 40]], ids=str)
def test_the_original_finds_boxes_of_its_own_however_they_are_numbered(tmp_path: Path, ids: list[int]) -> None:
    task, batch = recognised(detector(), "detection", "cells")
    boxes = [task.truth(answer) for answer in task.answers(batch) or []]
    assert len(ids) == CLASSES == len({int(kind) for each in boxes for kind in each.classes})
    report = measured(coco(tmp_path, boxes, ids), detector(), task)
    assert (report.task, report.outputs, report.samples) == ("detection", ("rows",), 6)
    assert report.before["ap50"].value > 0.95 and report.after["ap50"].value < report.before["ap50"].value


def test_labels_that_are_not_the_networks_are_pointed_out(tmp_path: Path) -> None:
    task, _ = recognised(detector(), "detection", "cells")
    corner = Boxes(np.array([[0.0, 0, 1, 1]]), np.ones(1), np.zeros(1, np.int64))
    warnings = list[str]()
    measured(coco(tmp_path, [corner] * 6, [0, 1, 2]), detector(), task, warnings)
    assert [text[:75] for text in warnings] == [
        "the original itself finds hardly any of the labelled boxes (AP50 0.000): th"
    ]


def test_labels_without_a_box_in_the_images_measure_nothing(tmp_path: Path) -> None:
    task, _ = recognised(detector(), "detection", "cells")
    outside = Boxes(np.array([[90.0, 90, 99, 99]]), np.ones(1), np.zeros(1, np.int64))
    with pytest.raises(DataError, match="--test has no box in any of its images"):
        measured(coco(tmp_path, [outside] * 6, [0]), detector(), task)


@dataclass(frozen=True)
class Prepared:
    """A session that answers with boxes of the images whose numbers stand in their first pixel."""

    values: dict[str, Array]

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(self.values)

    def __call__(self, feeds: dict[str, Array]) -> dict[str, Array]:
        (index,) = [np.abs(IMAGES - image).max(axis=(1, 2, 3)).argmin() for image in feeds["x"]]
        return {name: value[index : index + 1] for name, value in self.values.items()}


@pytest.mark.parametrize("turned", [False, True])
def test_the_labels_tell_which_coordinate_comes_first(tmp_path: Path, turned: bool) -> None:
    rng = np.random.default_rng(4)
    low = rng.uniform([0, 10], [4, 14], (6, 3, 2))
    corners = np.concatenate([low, low + rng.uniform([4, 6], [9, 12], (6, 3, 2))], axis=2)
    boxes = [Boxes(each, np.array([0.9, 0.8, 0.7]), np.arange(3)) for each in corners]
    path = coco(tmp_path, boxes, [0, 1, 2])
    places = corners[:, :, [1, 0, 3, 2]] if turned else corners
    answers = {"a": places / 32, "b": np.tile([0.9, 0.8, 0.7], (6, 1)), "c": np.tile(np.arange(3.0), (6, 1))}
    session: Any = Prepared(answers)
    head = Separate(("a", "b"), "c", None, False, Scale(shares=True), None)
    source, labels = load_test(path, SPECS, PRESETS["unit"], on_warning=ignore)
    assert not isinstance(labels, np.ndarray)
    sampling = split(source, SPECS, 0, together=False)
    labelling = Labelling(
        Detection("separate", head), source, labels, sampling, DeclaredShapes(dict.fromkeys("abc"), frozenset())
    )
    report = measure_labelled(SessionPair(session, session), labelling, Listener())
    assert report.before["ap75"].value == pytest.approx(1.0)
