"""Both models on samples with labelled boxes or masks.

Networks number their classes in several ways, and some give the vertical coordinate first. Which way a network has, the
labels tell: of all ways, the one in which the original finds most of the labelled boxes is taken for both models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.data.labelled_boxes import BoxLabels
from onnx_lowrank.data.labelled_masks import MaskLabels
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.measures.batch import Batch
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
class Reading:
    """One way in which the boxes and classes of a network may be meant, and both models measured in this way.

    Attributes
    ----------
    way
        The task, which knows the order of the coordinates.
    numbers
        The class number of every category, in the order of their ids.
    before, after
        The scores of the original and of the result.
    """

    way: Detection
    numbers: NDArray[np.int64]
    before: Tally
    after: Tally

    @property
    def value(self) -> float:
        """The AP50 of the original; −1 where there is no box to be found."""
        estimate = self.before.task.values(self.before.scores, np.ones((1, len(self.before.scores))))["ap50"][0]
        return float(np.nan_to_num(estimate, nan=-1.0))


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

    def added(self, tally: Tally, truth: Sequence[Any], answers: Sequence[Any] | None) -> Tally:
        """Return a tally with more answers.

        Raises
        ------
        DataError
            If they no longer look as they did when the task was recognised.
        """
        more = None if answers is None else tally.with_answers(truth, answers)
        if more is None:
            names = ", ".join(self.task.outputs)
            raise DataError(f"--test: outputs {names} have another shape on some samples: leave --test out")
        return more


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
        before = labelling.added(before, truth, labelling.task.answers(original))
        after = labelling.added(after, truth, labelling.task.answers(rewritten))
    return before, after


def _boxes(
    sessions: SessionPair, labelling: Labelling, task: Detection, labels: BoxLabels, listener: Listener
) -> tuple[Tally, Tally]:
    readings = [Reading(way, each, Tally(way), Tally(way)) for way in task.readings for each in _numberings(labels.ids)]
    for samples, batches in labelling.runs(sessions, listener):
        answers = {way: [way.answers(batch) for batch in batches] for way in task.readings}
        added = []
        for reading in readings:
            true = [labels.boxes[sample] for sample in samples]
            truth = [replace(boxes, classes=reading.numbers[boxes.classes]) for boxes in true]
            pairs = zip((reading.before, reading.after), answers[reading.way], strict=True)
            before, after = (labelling.added(tally, truth, found) for tally, found in pairs)
            added.append(replace(reading, before=before, after=after))
        readings = added
    best = max(readings, key=lambda reading: reading.value)
    if best.value < 0:
        raise DataError("--test has no box in any of its images: give labels with boxes")
    if best.value < FEW_FOUND:
        listener.warn(
            f"the original itself finds hardly any of the labelled boxes (AP50 {best.value:.3f}): the categories of "
            "--test are not its classes, or --preprocess is wrong"
        )
    return best.before, best.after


def _numberings(ids: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Return the numbers that networks give to the categories: from 0, from 1 behind a background, or their ids."""
    places = np.arange(len(ids))
    return [places, places + 1, np.array(ids)]
