"""Heads with an output for the boxes, one for their scores, and mostly one for their classes.

The boxes are [samples, M, 4], the scores [samples, M] with classes of the same shape, or [samples, M, classes] alone.
Models of one image may have no dimension for samples, and some say how many boxes there are in an output of its own.
Boxes are corners, or a centre with width and height, in pixels or shares of the image; the values tell.

Scores of all classes may be probabilities or logits. Where every box has a class that stands out, one of the classes
stands for the background: the first or the last, whichever scores most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from onnx_lowrank.measures.batch import Batch, each
from onnx_lowrank.measures.boxes import Boxes, from_centres, numbers_of
from onnx_lowrank.measures.heads.dense import dense_boxes
from onnx_lowrank.measures.heads.grid import in_unit
from onnx_lowrank.measures.heads.head import LEAST_SCORE, Head, HeadKind
from onnx_lowrank.measures.heads.pixels import LARGEST_SHARE, Scale, scale_of

Array = NDArray[Any]

MOST_FINISHED = 1000
"""The largest number of boxes that need no suppression."""


@dataclass(frozen=True)
class ClassScores:
    """How scores of all classes [M, classes] are read.

    Attributes
    ----------
    kind
        "probabilities", "sigmoid" or "softmax".
    background
        The class that stands for nothing; None where there is none.
    """

    kind: str
    background: int | None

    @classmethod
    def of(cls, values: Array) -> "ClassScores":
        """Recognise how some scores are to be read."""
        classes = values.shape[1]
        if in_unit(values):
            exclusive = classes > 1 and bool(np.abs(values.sum(axis=1) - 1).max() < 1e-2)
            return cls("probabilities", _background(values) if exclusive else None)
        exclusive = classes > 1 and bool((values.max(axis=1) > 0).mean() > 0.9)
        return cls("softmax", _background(softmax(values, axis=1))) if exclusive else cls("sigmoid", None)

    def read(self, values: Array) -> Array:
        """Return the probabilities of all classes but the background, shape [M, classes]."""
        if self.kind != "probabilities":
            values = expit(values) if self.kind == "sigmoid" else softmax(values, axis=1)
        return values if self.background is None else np.delete(values, self.background, axis=1)


def _background(probabilities: Array) -> int:
    means = probabilities.mean(axis=0)
    return 0 if means[0] >= means[-1] else len(means) - 1


@dataclass(frozen=True)
class Separate:
    """The head with its outputs.

    Attributes
    ----------
    names
        The outputs of the boxes and of the scores.
    number
        The output of the classes; None where the scores are those of all classes.
    count
        The output that says how many boxes there are; None without one.
    centred
        Whether a box is a centre with its width and height.
    scale
        The unit of the coordinates.
    scores
        How scores of all classes are read; None where the classes have an output.
    """

    names: tuple[str, str]
    number: str | None
    count: str | None
    centred: bool
    scale: Scale
    scores: ClassScores | None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return tuple(filter(None, (*self.names, self.number, self.count)))

    def boxes(self, batch: Batch) -> list[Boxes] | None:
        """Return the boxes in every image."""
        places = _coordinates(batch, self.names[0])
        scores = batch.each(self.names[1], 2 if self.number is None else 1)
        numbers = batch.each(self.number, 1) if self.number else scores
        counts = _counts(batch, self.count) if self.count else [1 << 40] * batch.samples
        if places is None or scores is None or numbers is None or counts is None:
            return None
        lengths = [list(map(len, values)) for values in (places, scores, numbers)]
        if not lengths[0] == lengths[1] == lengths[2]:
            return None
        images = zip(places, self.scale.factors(batch), scores, numbers, counts, strict=True)
        return [
            self._image(self.scale.pixels(each[:count], factor), score[:count], number[:count])
            for each, factor, score, number, count in images
        ]

    def _image(self, places: Array, scores: Array, numbers: Array) -> Boxes:
        corners = from_centres(places) if self.centred else places
        if self.scores is None:
            return Boxes(corners, scores.astype(np.float64), numbers_of(numbers)).best(LEAST_SCORE)
        by_class = self.scores.read(scores)
        if len(scores) > MOST_FINISHED:
            return dense_boxes(corners, by_class)
        best = by_class.max(axis=1, initial=0).astype(np.float64)
        return Boxes(corners, best, by_class.argmax(axis=1).astype(np.int64)).best(LEAST_SCORE)


def _coordinates(batch: Batch, name: str) -> list[Array] | None:
    """Return an output [M, 4] of every image; one [M, 1, 4] counts as well."""
    value = batch.outputs.get(name)
    if isinstance(value, np.ndarray) and value.ndim >= 3 and value.shape[-2:] == (1, 4):
        value = value[..., 0, :]
    places = each(value, batch.samples, 2)
    return places if places is not None and places[0].shape[1] == 4 else None


def _counts(batch: Batch, name: str) -> list[int] | None:
    """Return an output of one whole number for every image."""
    value = batch.outputs.get(name)
    if not isinstance(value, np.ndarray) or value.size != batch.samples or value.dtype.kind not in "fiu":
        return None
    numbers = value.reshape(-1)
    return [int(count) for count in numbers] if (np.rint(numbers) == numbers).all() else None


def find(batches: Sequence[Batch], sure: bool) -> Head | None:
    """Look for outputs of boxes, scores and classes that belong together."""
    for name in batches[0].outputs:
        places = _of_all(batches, name, _coordinates)
        head = _with_boxes(batches, name, places, sure) if places else None
        if head is not None:
            return head
    return None


def _with_boxes(batches: Sequence[Batch], name: str, places: list[Array], sure: bool) -> Head | None:
    """Return the head whose boxes are known, if one output or two go with them."""
    others = [other for other in batches[0].outputs if other != name]
    lengths = [len(image) for image in places]
    vectors, matrices = (
        {other: values for other in others if list(map(len, values := _of_all(batches, other, read))) == lengths}
        for read in (_vector, _matrix)
    )
    whole = [other for other, values in vectors.items() if _whole(np.concatenate(values))]
    shares = [other for other, values in vectors.items() if other not in whole and in_unit(np.concatenate(values))]
    if len(whole) == len(shares) == 1:
        partner, number, reading = shares[0], whole[0], None
        best = np.concatenate(vectors[partner])
    elif len(matrices) == 1 and not vectors:
        ((partner, values),) = matrices.items()
        number, reading = None, ClassScores.of(np.concatenate(values))
        best = reading.read(np.concatenate(values)).max(axis=1, initial=0)
    else:
        return None
    corners = np.concatenate(places)[best >= LEAST_SCORE]
    if sure and not _plausible(corners, batches):
        return None
    count = next((other for other in others if _are_counts(_of_all(batches, other, _counts), lengths)), None)
    centred = not (len(corners) and _ordered(corners))
    count = None if count in (partner, number) else count
    return Separate((name, partner), number, count, centred, scale_of(corners), reading)


def _vector(batch: Batch, name: str) -> list[Array] | None:
    return batch.each(name, 1)


def _matrix(batch: Batch, name: str) -> list[Array] | None:
    return batch.each(name, 2)


def _of_all(batches: Sequence[Batch], name: str, read: Callable[[Batch, str], list[Any] | None]) -> list[Any]:
    """Return what is read of an output for all images; empty if a batch has none of it."""
    found = [read(batch, name) for batch in batches]
    return [] if any(values is None for values in found) else [value for values in found for value in values or ()]


def _whole(values: Array) -> bool:
    return bool(values.size and np.isfinite(values).all() and (np.rint(values) == values).all() and values.max() > 0)


def _are_counts(values: Sequence[int], lengths: Sequence[int]) -> bool:
    known = len(values) == len(lengths) and max(values) > 0
    return known and all(0 <= value <= length for value, length in zip(values, lengths, strict=True))


def _ordered(corners: Array) -> bool:
    """Return whether nearly all boxes are corners; a small box of another kind, far from the origin, is none."""
    return bool((corners[:, 2:] >= corners[:, :2]).all(axis=1).mean() > 0.99)


def _plausible(corners: Array, batches: Sequence[Batch]) -> bool:
    """Return whether there are boxes, within the image or not far outside, and with sides of some length."""
    if len(corners) < 3 or not np.isfinite(corners).all():
        return False
    if not _ordered(corners):
        sides = corners[:, 2:]
        if (sides <= 0).mean() > 0.01:
            return False
        corners = from_centres(corners)
    images = [image for batch in batches for image in batch.images or ()]
    largest = max((max(image.shape[1:]) for image in images), default=0) or float(np.abs(corners).max())
    limit = 1.0 if np.abs(corners).max() <= LARGEST_SHARE else float(largest)
    inside = (corners > -0.5 * limit).all(axis=1) & (corners < 1.5 * limit).all(axis=1)
    sides = corners[:, 2:] - corners[:, :2]
    return bool(inside.mean() > 0.99 and (sides > 0).mean() > 0.95 and np.ptp(corners) > 0)


SEPARATE = HeadKind(
    "separate", "outputs of boxes [.., M, 4] and scores [.., M] with classes, or [.., M, classes]", find
)
