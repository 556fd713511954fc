"""Boxes with scores and classes, and how much they overlap."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

OVERLAP = 0.5
"""Of two boxes of one class that overlap by more than this, the one with the lower score is suppressed."""

MOST_BOXES = 100
"""The largest number of boxes in an image, those with the highest scores, as COCO counts them."""

MOST_SUPPRESSED = 3000
"""The largest number of boxes that are compared with each other, those with the highest scores."""


@dataclass(frozen=True)
class Boxes:
    """The boxes in an image.

    Attributes
    ----------
    corners
        x0, y0, x1, y1 in pixels of the network's input, shape [m, 4].
    scores
        Between 0 and 1, shape [m].
    classes
        Class numbers, shape [m].
    ignored
        Which of them are neither to be found nor wrong if they are found, shape [m]; none by default.
    """

    corners: Array
    scores: Array
    classes: NDArray[np.int64]
    ignored: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def __post_init__(self) -> None:
        if len(self.ignored) != len(self.scores):
            object.__setattr__(self, "ignored", np.zeros(len(self.scores), np.bool_))

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.scores)

    def __getitem__(self, chosen: Any) -> "Boxes":
        """Return some of the boxes."""
        return Boxes(self.corners[chosen], self.scores[chosen], self.classes[chosen], self.ignored[chosen])

    def best(self, least: float, most: int = MOST_BOXES) -> "Boxes":
        """Return the boxes with the highest scores, in descending order, all of at least ``least``."""
        some = self[np.isfinite(self.corners).all(axis=1) & (self.scores >= least)]
        return some[np.argsort(-some.scores, kind="stable")[:most]]

    def suppressed(self) -> "Boxes":
        """Return the boxes that remain of those, in descending order, which overlap one of a higher score too much."""
        kept = list[int]()
        left = np.arange(min(len(self), MOST_SUPPRESSED))
        while len(left) and len(kept) < MOST_BOXES:
            first, rest = left[0], left[1:]
            kept.append(int(first))
            same = self.classes[rest] == self.classes[first]
            covered = overlaps(self.corners[first : first + 1], self.corners[rest])[0] > OVERLAP
            left = rest[~(same & covered)]
        return self[np.array(kept, np.int64)]


def numbers_of(classes: Array) -> NDArray[np.int64]:
    """Return class numbers as integers; −1 for what is no number."""
    finite = np.nan_to_num(classes.astype(np.float64), nan=-1, posinf=-1, neginf=-1)
    return np.rint(np.clip(finite, -1, 1 << 40)).astype(np.int64)


def from_centres(boxes: Array) -> Array:
    """Return corners [m, 4] of boxes that are given by their centre, width and height."""
    middle, half = boxes[..., :2], boxes[..., 2:4] / 2
    return np.concatenate([middle - half, middle + half], axis=-1)


def overlaps(one: Array, other: Array, crowds: NDArray[np.bool_] | None = None) -> Array:
    """Return the area that boxes share over that which they cover together, shape [m, n].

    Parameters
    ----------
    one, other
        Corners, shapes [m, 4] and [n, 4].
    crowds
        Which of ``other`` are crowds, shape [n]: a box is compared with the part of a crowd that it covers.
    """
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area, other_area = (np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=1) for boxes in (one, other))
    together = area[:, None] + other_area[None] - shared
    if crowds is not None:
        together = np.where(crowds[None], area[:, None], together)
    result: Array = shared / np.maximum(together, 1e-12)
    return result
