"""Both models on samples with labelled boxes or masks.

Networks number their classes in several ways, and some give the vertical coordinate first. Which way a network has, the
labels tell: of all ways, the one in which the original finds most of the labelled boxes is taken for both models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.data.labelled_boxes import BoxLabels
from onnx_lowrank.data.labelled_masks import MaskLabels
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes
from onnx_lowrank.measures.detection import Detection
from onnx_lowrank.measures.tally import Tally
from onnx_lowrank.measures.task import Task
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.task_schema import LabelledReport
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.tasks import as_batch, as_reports

FEW_FOUND = 0.05
"""The AP50 of an original below which its classes are hardly those of the labels."""


@dataclass(frozen=True)
class Labelling:
    """What both models are measured with: the task, the samples and their labels, and the batches of them."""

    task: Task
    source: Source
    labels: BoxLabels | MaskLabels
    sampling: Sampling
    declared: DeclaredShapes

    def runs(self, sessions: SessionPair, listener: Listener) -> Iterator[tuple[Sequence[int], tuple[Batch, ...]]]:
        """Run both models on all batches; yields the samples and what each model answered."""
        batches = self.sampling.like(self.source)
        listener.progress("test", 0, len(batches))
        for done, samples in enumerate(batches, 1):
            feeds = self.source.feeds(samples)
            models = (sessions.original, sessions.rewritten)
            yield samples, tuple(as_batch(len(samples), feeds, model(feeds), self.declared) for model in models)
            listener.progress("test", done, len(batches))

    @property
    def refusal(self) -> DataError:
        """The error for outputs that no longer look as they did when the task was recognised."""
        return DataError(f"--test: {', '.join(self.task.outputs)} have another shape on some samples: leave --test out")


def measure_labelled(sessions: SessionPair, labelling: Labelling, listener: Listener) -> LabelledReport:
    """Measure both models against the labels.

    Raises
    ------
    DataError
        If the outputs do not fit the labels.
    """
    if isinstance(labelling.task, Detection) and isinstance(labelling.labels, BoxLabels):
        tallies = _boxes(sessions, labelling, labelling.task, labelling.labels, listener)
    else:
        tallies = _masks(sessions, labelling, listener)
    before, after = (as_reports(tally.estimates()) for tally in tallies)
    if not before:
        raise DataError("--test has labels for nothing that the outputs give, so nothing can be measured: give others")
    first = tallies[0]
    return LabelledReport(first.task.name, first.task.outputs, len(first.scores), before, after)


def _masks(sessions: SessionPair, labelling: Labelling, listener: Listener) -> tuple[Tally, Tally]:
    before = after = Tally(labelling.task)
    assert isinstance(labelling.labels, MaskLabels)
    for samples, (original, rewritten) in labelling.runs(sessions, listener):
        truth = [labelling.labels.read(sample) for sample in samples]
        answers = [labelling.task.answers(batch) for batch in (original, rewritten)]
        if answers[0] is None or answers[1] is None:
            raise labelling.refusal
        before, after = before.with_answers(truth, answers[0]), after.with_answers(truth, answers[1])
    return before, after


def _boxes(
    sessions: SessionPair, labelling: Labelling, task: Detection, labels: BoxLabels, listener: Listener
) -> tuple[Tally, Tally]:
    ways = task.readings
    order = list[int]()
    found: dict[Detection, tuple[list[Boxes], list[Boxes]]] = {way: ([], []) for way in ways}
    for samples, batches in labelling.runs(sessions, listener):
        order += samples
        for way in ways:
            for place, batch in enumerate(batches):
                boxes = way.answers(batch)
                if boxes is None:
                    raise labelling.refusal
                found[way][place].extend(boxes)
    best, least = None, -1.0
    for way in ways:
        for numbers in _numberings(labels.ids):
            truth = [_numbered(labels.boxes[sample], numbers) for sample in order]
            tally = Tally(way).with_answers(truth, found[way][0])
            value = float(way.values(tally.scores, np.ones((1, len(order))))["ap50"][0])
            if value > least:
                best, least = (tally, Tally(way).with_answers(truth, found[way][1])), value
    if best is None:
        raise DataError("--test has no box in any of its images: give labels with boxes")
    if least < FEW_FOUND:
        listener.warn(
            f"the original itself finds hardly any of the labelled boxes (AP50 {least:.3f}): the categories of --test "
            "are not its classes, or --preprocess is wrong"
        )
    return best


def _numberings(ids: tuple[int, ...]) -> list[np.ndarray]:
    """Return the numbers that networks give to the categories: from 0, from 1 behind a background, or their ids."""
    places = np.arange(len(ids))
    return [places, places + 1, np.array(ids)]


def _numbered(boxes: Boxes, numbers: np.ndarray) -> Boxes:
    return replace(boxes, classes=numbers[boxes.classes])
