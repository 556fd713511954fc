"""The top-1 accuracy of both models on labelled samples."""

from collections.abc import Sequence

import numpy as np

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.data.labelled import Labelled
from onnx_lowrank.data.labels import Labelled as Classified
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Progress
from onnx_lowrank.report.schema import AccuracyReport
from onnx_lowrank.stages.session_pair import SessionPair


def check_labelled(labelled: Labelled, output: TensorSpec, sampling: Sampling) -> None:
    """Refuse labelled samples that do not fill a batch, and classes that the first output's declaration does not fit.

    Raises
    ------
    DataError
        If the output is not declared as class scores, if it has fewer classes than the labels, or if the samples do not
        fill a batch.
    """
    source, labels = labelled
    if not sampling.like(source):
        raise DataError(f"--test has {len(labels)} samples, fewer than the batch that the model demands: give more")
    if not isinstance(labels, np.ndarray):
        return
    one_by_one = sampling.fixed and len(sampling.single) == 1
    if output.shape is not None and len(output.shape) not in ((1, 2) if one_by_one else (2,)):
        raise _no_scores(output.name, output.shape)
    classes = output.shape[-1] if output.shape else None
    if isinstance(classes, int) and labels.max() >= classes:
        raise DataError(
            f"--test has label {labels.max()}, and output {output.name!r} has {classes} classes, counted from 0: "
            "correct the labels"
        )


def measure_accuracy(
    sessions: SessionPair, labelled: Classified, sampling: Sampling, progress: Progress
) -> AccuracyReport:
    """Measure the top-1 accuracy of both models' first output.

    Raises
    ------
    DataError
        If that output does not hold one row of class scores for each sample.
    """
    source, labels = labelled
    batches = sampling.like(source)
    models = (sessions.original, sessions.rewritten)
    correct = [0 for _ in models]
    lost = gained = 0
    progress("test", 0, len(batches))
    for done, batch in enumerate(batches, 1):
        feeds, right = source.feeds(batch), []
        for index, session in enumerate(models):
            scores = session(feeds)[session.outputs[0]]
            if len(batch) == getattr(scores, "ndim", 0) == 1:  # of a model without a dimension for samples
                scores = scores[None]
            shape = getattr(scores, "shape", ())  # a sequence or a map has no shape
            if len(shape) != 2 or len(scores) != len(batch):
                raise _no_scores(session.outputs[0], shape)
            right.append(scores.argmax(axis=1) == labels[list(batch)])
            correct[index] += int(right[-1].sum())
        lost, gained = lost + int((right[0] & ~right[1]).sum()), gained + int((right[1] & ~right[0]).sum())
        progress("test", done, len(batches))
    count = sum(map(len, batches))
    before, after = (number / count for number in correct)
    return AccuracyReport(count, before, after, lost, gained)


def _no_scores(output: str, shape: Sequence[object]) -> DataError:
    sides = ", ".join("?" if side is None else str(side) for side in shape)
    return DataError(
        f"--test needs class scores [samples, classes], and output {output!r} has shape [{sides}]: leave --test out"
    )
