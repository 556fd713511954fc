"""Tasks are measured beside the errors of the outputs, also where the outputs cannot be compared number by number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from answers_for_tests import FORMS, Form, images, scene, stated
from numpy.typing import NDArray

from onnx_lowrank.data.source import Source
from onnx_lowrank.interface import Feeds
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.detection import Detection
from onnx_lowrank.measures.table import recognise
from onnx_lowrank.measures.task import Task
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.task_schema import TaskReport
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.tasks import Tallies
from onnx_lowrank.stages.validate import compare_outputs

Array = NDArray[Any]

SEPARATE = next(form for form in FORMS if form.name == "separate")
IMAGES = images(6)


@dataclass(frozen=True)
class Detector:
    """A session that answers to one image at a time with as many boxes as it finds."""

    answers: Sequence[Batch]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        (place,) = np.flatnonzero((feeds["x"] == IMAGES).all(axis=(1, 2, 3)))
        return dict(self.answers[int(place)].outputs)


class Images:
    def feeds(self, indices: Sequence[int]) -> Feeds:
        return {"x": IMAGES[list(indices)]}


def found(batches: Sequence[Batch], lengths: Sequence[int]) -> list[Batch]:
    """The first boxes of every image alone."""
    return [
        Batch(1, batch.inputs, {name: value[:length] for name, value in batch.outputs.items()})
        for batch, length in zip(batches, lengths, strict=True)
    ]


def compared(
    before: Sequence[Batch], after: Sequence[Batch], tasks: Sequence[Task], warnings: list[str]
) -> tuple[TaskReport, ...]:
    declared = DeclaredShapes(dict.fromkeys(before[0].outputs), frozenset())
    tallies = Tallies(tasks, declared, warnings.append)
    sessions = SessionPair(cast(Any, Detector(before)), cast(Any, Detector(after)))
    samples = tuple((index,) for index in range(len(before)))
    compare_outputs(sessions, cast(Source, Images()), samples, declared, Listener(warn=warnings.append), tallies)
    return tallies.reports()


def detector(form: Form = SEPARATE) -> list[Batch]:
    return stated(form, [scene(seed) for seed in range(6)], alone=True)


def test_boxes_are_measured_whatever_their_number_is() -> None:
    batches, warnings = detector(), list[str]()
    tasks = recognise(batches)
    # The rewritten model finds fewer of the boxes that hardly score, and of one image none at all.
    before, after = found(batches, [20, 19, 18, 17, 16, 20]), found(batches, [9, 8, 7, 6, 9, 0])
    (report,) = compared(before, after, tasks, warnings)
    missed = len(scene(5)) / report.details["true_boxes"]
    assert warnings == [] and report.samples == 6
    assert report.measures["ap50"].value == pytest.approx(1 - missed, abs=0.02)


def test_outputs_that_change_their_shape_are_not_measured_and_the_run_goes_on() -> None:
    batches, warnings = detector(), list[str]()
    tasks = recognise(batches)
    turned = [Batch(1, each.inputs, dict(each.outputs) | {"boxes": each.outputs["boxes"].T}) for each in batches]
    assert compared(batches, [*batches[:3], *turned[3:]], tasks, warnings) == ()
    assert "detection is not measured: 'boxes', 'scores', 'labels' have another shape on some samples" in warnings


def test_images_without_boxes_measure_nothing() -> None:
    batches, warnings = detector(), list[str]()
    tasks = recognise(batches)
    assert isinstance(tasks[0], Detection)
    low = [Batch(1, each.inputs, dict(each.outputs) | {"scores": 0.1 * each.outputs["scores"]}) for each in batches]
    assert compared(low, low, tasks, warnings) == ()
    assert warnings == ["detection is not measured: the original's answers to these samples are empty"]
