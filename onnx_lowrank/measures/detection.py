"""Detection: the boxes of the original with a score of at least 0.3 are those that are to be found.

AP50 and AP75 are COCO's average precision (see ``average_precision``) of the boxes that overlap a true one of their
class by at least 0.5 and 0.75. Beside labels it is the mean over the classes, as COCO defines it. The boxes of the
original mostly are of too many classes for that, a box or two of each, and all are ranked together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.average_precision import Matches, average_precision, match
from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.boxes import Boxes
from onnx_lowrank.measures.heads.end_to_end import EndToEnd
from onnx_lowrank.measures.heads.head import Head
from onnx_lowrank.measures.heads.separate import Separate
from onnx_lowrank.measures.heads.table import HEADS

NAME = "detection"

NEEDS = "boxes that one of the heads " + ", ".join(HEADS) + " gives"

LEAST_TRUE_SCORE = 0.3
"""The lowest score of a box of the original that another network has to find."""

THRESHOLDS = {"ap50": 0.5, "ap75": 0.75}
"""The least overlap of a hit, by the measure."""


@dataclass(frozen=True)
class Detection:
    """The task of a detector; see :class:`~onnx_lowrank.measures.task.Task`. An answer is a ``Boxes``.

    Attributes
    ----------
    kind, head
        The name of the head, and the head.
    labelled
        Whether the true boxes are labels, and not the original's.
    """

    kind: str
    head: Head
    labelled: bool = False
    name: str = NAME

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return self.head.outputs

    @property
    def readings(self) -> tuple["Detection", ...]:
        """The ways in which the boxes may be meant, which only labels can tell apart, beside labels."""
        usual = replace(self, labelled=True)
        if isinstance(self.head, Separate | EndToEnd):
            turned = replace(self.head, scale=replace(self.head.scale, rows_first=True))
            return usual, replace(usual, head=turned)
        return (usual,)

    def answers(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image."""
        return self.head.boxes(batch)

    def truth(self, answer: Boxes) -> Boxes:
        """Return the boxes that are to be found."""
        return answer[answer.scores >= LEAST_TRUE_SCORE]

    def score(self, truth: Boxes, answer: Boxes) -> Matches:
        """Match the boxes with the true ones."""
        return match(truth, answer, tuple(THRESHOLDS.values()))

    def values(self, scores: Sequence[Matches], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return AP50 and AP75."""
        return {
            name: average_precision(scores, weights, row, by_class=self.labelled) for row, name in enumerate(THRESHOLDS)
        }

    def details(self, scores: Sequence[Matches]) -> dict[str, float]:
        """Return the number of boxes that are to be found."""
        return {"true_boxes": float(sum(len(matches.true_classes) for matches in scores))}


def find(batches: Sequence[Batch], *, sure: bool = True, head: str | None = None) -> tuple[Detection, ...]:
    """Look for the head of a detector: for one of a kind, or for the first that is there."""
    for kind in HEADS.values() if head is None else (HEADS[head],):
        found = kind.find(batches, sure)
        if found is not None:
            return (Detection(kind.name, found),)
    return ()
