"""Top-1 of both models on labelled samples."""

from collections.abc import Sequence

from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.data.labels import Labelled
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.progress import Progress
from onnx_lowrank.report.schema import AccuracyReport
from onnx_lowrank.runtime.session import Session


def check_labelled(labelled: Labelled, output: TensorSpec, sampling: Sampling) -> None:
    """Refuse labelled samples with which the accuracy cannot be measured, as far as the model's first output tells.

    Raises
    ------
    DataError
        Where that output is declared to be something else than class scores, or to have fewer classes than the labels,
        or where the samples do not fill a batch.
    """
    _, labels = labelled
    if output.shape is not None and len(output.shape) != 2:
        raise _no_scores(output.name, output.shape)
    classes = output.shape[1] if output.shape else None
    if isinstance(classes, int) and labels.max() >= classes:
        raise DataError(
            f"--test has label {labels.max()}, and output {output.name!r} has {classes} classes, counted from 0: "
            "mend the labels"
        )
    if not sampling.like(len(labels)):
        raise DataError(f"--test has {len(labels)} samples, fewer than the batch that the model demands: give more")


def _no_scores(output: str, shape: Sequence[object]) -> DataError:
    said = ", ".join("?" if side is None else str(side) for side in shape)
    return DataError(
        f"--test needs class scores [samples, classes], and output {output!r} has shape [{said}]: leave --test out"
    )


def measure_accuracy(
    before: Session, after: Session, labelled: Labelled, sampling: Sampling, progress: Progress
) -> AccuracyReport:
    """Top-1 of the first output of both models.

    Raises
    ------
    DataError
        Where that output does not hold one row of class scores a sample.
    """
    source, labels = labelled
    batches = sampling.like(len(labels))
    right = [0, 0]
    progress("test", 0, len(batches))
    for done, batch in enumerate(batches, 1):
        feeds = source.feeds(batch)
        for which, session in enumerate((before, after)):
            scores = session(feeds)[session.outputs[0]]
            shape = getattr(scores, "shape", ())  # a sequence or map has none
            if len(shape) != 2 or len(scores) != len(batch):
                raise _no_scores(session.outputs[0], shape)
            right[which] += int((scores.argmax(axis=1) == labels[list(batch)]).sum())
        progress("test", done, len(batches))
    count = sum(map(len, batches))
    return AccuracyReport(count, right[0] / count, right[1] / count)
