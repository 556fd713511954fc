"""Segmentation: the class of every pixel according to the original is the true one.

The intersection over union of a class is the number of pixels that both give to it over the number that either gives
to it, on all samples together. mIoU is its mean over the classes that occur. A mask of one channel has a single class:
what it marks.

An output is a map of classes if it is as large as the input or a fraction of that (down to an eighth), and holds whole
numbers; or the scores of two or more classes, of which one mostly stands out, and in most neighbouring pixels the same;
or one channel whose values are mostly near 1 where it marks something and near 0 elsewhere, or logits that are as
decided. Maps of heat, depth or features are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from onnx_lowrank.measures.batch import Batch
from onnx_lowrank.measures.heads.grid import in_unit

Array = NDArray[Any]

NAME = "segmentation"

NEEDS = "an output of class scores [samples, classes, height, width], of class numbers, or of masks"

SCORES, NUMBERS, MASK, LOGITS = "scores", "class numbers", "mask", "logits of a mask"

IGNORED = -1
"""The class of pixels that do not count."""

SMALLEST = 0.12
"""The smallest map of classes beside the input, a little less than an eighth."""

MOST_CLASSES = 1000

FEWEST_PIXELS = 12
"""The smallest height or width of a map of classes that is recognised: in a smaller one, chance looks like order."""

DECIDED, TOGETHER = 0.5, 0.8
"""The share of pixels at which a class stands out, and that of neighbours with the same class."""

SURE = 0.8
"""The probability of a class that stands out."""


@dataclass(frozen=True)
class Areas:
    """The number of pixels of every class in both maps, in the true one, and in the other; shape [classes] each."""

    both: NDArray[np.int64]
    true: NDArray[np.int64]
    answered: NDArray[np.int64]


@dataclass(frozen=True)
class Segmentation:
    """The task of a map of classes; see :class:`~onnx_lowrank.measures.task.Task`. An answer is an array [h, w].

    Attributes
    ----------
    output
        The name of the output.
    kind
        What its values are.
    last
        Whether the classes lie along the last dimension.
    """

    output: str
    kind: str
    last: bool = False
    name: str = NAME

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def answers(self, batch: Batch) -> list[NDArray[np.int64]] | None:
        """Return the class of every pixel of every sample."""
        maps = _maps(batch, self.output, self.kind)
        return None if maps is None else [self.classes(each) for each in maps]

    def classes(self, values: Array) -> NDArray[np.int64]:
        """Return the class of every pixel of one map."""
        if self.kind == SCORES:
            classes: NDArray[np.int64] = values.argmax(axis=-1 if self.last else 0)
            return classes
        if self.kind == NUMBERS:
            return values.astype(np.int64)
        return (values > (0.5 if self.kind == MASK else 0.0)).astype(np.int64)

    def truth(self, answer: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the map as it is."""
        return answer

    def score(self, truth: NDArray[np.int64], answer: NDArray[np.int64]) -> Areas | None:
        """Count the pixels of every class; a true map may be larger than the answer, whose pixels are then repeated."""
        if not (truth.size and answer.size):
            return None
        if truth.shape != answer.shape:
            rows, columns = (
                np.arange(wanted) * given // wanted for wanted, given in zip(truth.shape, answer.shape, strict=True)
            )
            answer = answer[rows[:, None], columns]
        if self.kind in (MASK, LOGITS):
            truth = np.where(truth == IGNORED, IGNORED, truth != 0)
        # What neither map may hold does not count in the other one either.
        known = (truth >= 0) & (answer >= 0) & (truth < 1 << 16) & (answer < 1 << 16)
        true, answered = truth[known].astype(np.int64), answer[known]
        most = int(max(true.max(initial=0), answered.max(initial=0))) + 1
        both = np.bincount(true[true == answered], minlength=most)
        areas = Areas(both, np.bincount(true, minlength=most), np.bincount(answered, minlength=most))
        return areas if self.kind in (SCORES, NUMBERS) else _marked(areas)

    def values(self, scores: Sequence[Areas], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return mIoU."""
        most = max(len(areas.both) for areas in scores)
        both, true, answered = (
            weights @ np.stack([np.pad(getattr(areas, name), (0, most - len(areas.both))) for areas in scores])
            for name in ("both", "true", "answered")
        )
        either = true + answered - both
        shares = both / np.maximum(either, 1)
        count = (either > 0).sum(axis=1)
        return {"miou": np.where(count > 0, (shares * (either > 0)).sum(axis=1) / np.maximum(count, 1), np.nan)}

    def details(self, scores: Sequence[Areas]) -> dict[str, float]:
        """Return the number of classes that occur."""
        most = max(len(areas.both) for areas in scores)
        occurring = sum(np.pad(areas.true + areas.answered, (0, most - len(areas.both))) for areas in scores)
        return {"classes": float(np.count_nonzero(occurring))}


def _marked(areas: Areas) -> Areas:
    """Return the areas of what a mask marks, without the rest of the image."""
    return Areas(*(np.pad(each, (0, 1))[1:2] for each in (areas.both, areas.true, areas.answered)))


def _maps(batch: Batch, name: str, kind: str) -> list[Array] | None:
    """Return an output of every sample: [classes, h, w] or [h, w, classes] for scores, and [h, w] for other kinds."""
    deep = batch.each(name, 3)
    if kind == SCORES:
        return deep
    if deep is None:
        return batch.each(name, 2)
    axis = next((axis for axis in (0, 2) if deep[0].shape[axis] == 1), None)
    return None if axis is None else [np.take(each, 0, axis=axis) for each in deep]


def find(batches: Sequence[Batch], *, sure: bool = True) -> tuple[Segmentation, ...]:
    """Look for outputs that give every pixel a class."""
    images = [image for batch in batches for image in batch.images or ()]
    if sure and not images:
        return ()
    found = []
    for name in batches[0].outputs:
        for kind in (NUMBERS, MASK, LOGITS, SCORES):
            maps = [each for batch in batches for each in _maps(batch, name, kind) or ()]
            if not maps or (images and len(maps) != len(images)):
                continue
            task = _read(name, kind, maps, images)
            if task is not None and (not sure or _proven(task, maps)):
                found.append(task)
                break
    return tuple(found)


def _read(name: str, kind: str, maps: Sequence[Array], images: Sequence[Array]) -> Segmentation | None:
    """Return the task if shapes and types are those of its kind."""
    whole = maps[0].dtype.kind in "iub"
    if kind != SCORES:
        if not _fills(maps, images) or whole != (kind == NUMBERS):
            return None
        probable = all(in_unit(each) for each in maps)
        return Segmentation(name, kind) if whole or probable == (kind == MASK) else None
    for last in (False, True):
        sides = [each.shape[:2] if last else each.shape[1:] for each in maps]
        classes = maps[0].shape[2 if last else 0]
        if not whole and 2 <= classes <= MOST_CLASSES and _fills(maps, images, sides):
            return Segmentation(name, kind, last)
    return None


def _fills(maps: Sequence[Array], images: Sequence[Array], sides: Sequence[tuple[int, ...]] | None = None) -> bool:
    """Return whether maps of these heights and widths show whole images, or no image is known."""
    if not images:
        return True
    for image, (height, width) in zip(images, sides or [each.shape for each in maps], strict=True):
        ratios = height / image.shape[1], width / image.shape[2]
        # An odd side may have been rounded.
        slack = 1.5 / min(image.shape[1:])
        if abs(ratios[0] - ratios[1]) > slack or not SMALLEST <= ratios[0] <= 1 + slack:
            return False
    return True


def _proven(task: Segmentation, maps: Sequence[Array]) -> bool:
    """Return whether the values are those of a map of classes."""
    if min(side for each in maps for side in _sides(task, each)) < FEWEST_PIXELS:
        return False
    classes = [task.classes(each) for each in maps]
    numbers = np.unique(np.concatenate([np.unique(each) for each in classes]))
    if not 2 <= len(numbers) <= MOST_CLASSES or numbers[0] < 0:
        return False
    same = [float((each[:, 1:] == each[:, :-1]).mean()) for each in classes if each.shape[1] > 1]
    if not same or min(same) < TOGETHER:
        return False
    return task.kind == NUMBERS or all(_decided(task, each) >= DECIDED for each in maps)


def _sides(task: Segmentation, values: Array) -> tuple[int, ...]:
    """Return the height and width of a map."""
    return values.shape if values.ndim == 2 else values.shape[:2] if task.last else values.shape[1:]


def _decided(task: Segmentation, values: Array) -> float:
    """Return the share of pixels at which a class stands out, of a mask the least of marked and other pixels.

    Peaks of heat are mostly slopes, and what lies around them is far larger.
    """
    if task.kind == MASK:
        sure = np.maximum(values, 1 - values)
    elif task.kind == LOGITS:
        sure = expit(np.abs(values.astype(np.float64)))
    else:
        axis = -1 if task.last else 0
        sums = values.sum(axis=axis, dtype=np.float64)
        probable = in_unit(values) and np.abs(sums - 1).max() < 1e-2
        sure = (values if probable else softmax(values.astype(np.float32), axis=axis)).max(axis=axis)
    if task.kind == SCORES:
        return float((sure >= SURE).mean())
    marked = task.classes(values) > 0
    return min(float((sure[part] >= SURE).mean()) for part in (marked, ~marked) if part.any())
