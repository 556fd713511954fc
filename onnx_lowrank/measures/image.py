"""Image to image: super-resolution, denoising, restoration. The pictures of the original are what is wanted.

PSNR is 10 log₁₀(peak² / mean squared difference) in dB, where the mean is that of all pixels of all pictures and the
peak is the range of the original's pictures, the largest value less the smallest. What differs by no more than the
rounding of single precision has 144 dB. SSIM is the mean over the pictures (see ``similarity``), with the range that
the pictures had when the task was recognised.

An output is a picture if it has 1, 3 or 4 channels, is as large as the input or a whole number of times larger, and
shows what the input shows: their brightness is correlated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch, channel_axis
from onnx_lowrank.measures.similarity import structural_similarity

Array = NDArray[Any]

NAME = "image"

NEEDS = "an output [samples, 1, 3 or 4 channels, height, width]"

ALIKE = 0.8
"""The correlation of brightness above which an output shows what the input shows."""

ROUNDING = 2.0**-24
"""The relative rounding of single precision."""


@dataclass(frozen=True)
class Pair:
    """Sums over the pixels of a picture and of the one that is wanted.

    Attributes
    ----------
    squared, count
        The sum of the squared differences, and the number of values.
    low, high
        The smallest and largest value of the wanted picture.
    similarity
        The structural similarity.
    """

    squared: float
    count: int
    low: float
    high: float
    similarity: float


@dataclass(frozen=True)
class Image:
    """The task of an output of pictures; see :class:`~onnx_lowrank.measures.task.Task`. An answer is an array.

    ``peak`` is the range of values that was seen when the task was recognised.
    """

    output: str
    peak: float
    name: str = NAME
    kind: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def answers(self, batch: Batch) -> list[Array] | None:
        """Return the picture of every sample, [channels, height, width]."""
        return pictures_of(batch, self.output)

    def truth(self, answer: Array) -> Array:
        """Return the picture as it is."""
        return answer

    def score(self, truth: Array, answer: Array) -> Pair | None:
        """Compare two pictures."""
        if truth.shape != answer.shape:
            return None
        difference = np.square(answer.astype(np.float64) - truth)
        similarity = structural_similarity(truth, answer, self.peak)
        return Pair(float(difference.sum()), truth.size, float(truth.min()), float(truth.max()), similarity)

    def values(self, scores: Sequence[Pair], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return PSNR and SSIM."""
        peak = self.details(scores)["peak"]
        squared, count, similarity = (
            weights @ np.array([getattr(pair, name) for pair in scores], np.float64)
            for name in ("squared", "count", "similarity")
        )
        if not peak > 0:
            return {}
        noise = np.maximum(squared / count, (ROUNDING * peak) ** 2)
        return {"psnr": 10 * np.log10(peak**2 / noise), "ssim": similarity / weights.sum(axis=1)}

    def details(self, scores: Sequence[Pair]) -> dict[str, float]:
        """Return the peak of the PSNR."""
        return {"peak": max(pair.high for pair in scores) - min(pair.low for pair in scores)}


def pictures_of(batch: Batch, name: str) -> list[Array] | None:
    """Return an output of pictures as [channels, height, width]; None if it holds none."""
    values = batch.each(name, 3)
    if values is None or not values[0].size:
        return None
    channels = channel_axis(values[0].shape)
    return None if channels is None else [np.moveaxis(value, channels, 0) for value in values]


def find(batches: Sequence[Batch], *, sure: bool = True) -> tuple[Image, ...]:
    """Look for outputs of pictures."""
    found = []
    for name in batches[0].outputs:
        pictures = [picture for batch in batches for picture in pictures_of(batch, name) or ()]
        if not pictures or (sure and not _proven(pictures, batches)):
            continue
        peak = float(max(picture.max() for picture in pictures)) - float(min(picture.min() for picture in pictures))
        if np.isfinite(peak) and peak > 0:
            found.append(Image(name, peak))
    return tuple(found)


def _proven(pictures: Sequence[Array], batches: Sequence[Batch]) -> bool:
    """Return whether the pictures show what the inputs show."""
    images = [image for batch in batches for image in batch.images or ()]
    if len(images) != len(pictures):
        return False
    return all(_correlation(image, picture) >= ALIKE for image, picture in zip(images, pictures, strict=True))


def _correlation(image: Array, picture: Array) -> float:
    """Return how the brightness of a picture is correlated with that of an image it is a multiple of; 0 otherwise."""
    height, width = image.shape[1:]
    times, rest = divmod(picture.shape[1], height)
    if rest or not times or picture.shape[1:] != (height * times, width * times):
        return 0.0
    shrunk = picture.mean(axis=0, dtype=np.float64).reshape(height, times, width, times).mean(axis=(1, 3))
    one, other = shrunk - shrunk.mean(), image.mean(axis=0, dtype=np.float64)
    other = other - other.mean()
    scale = float(np.sqrt(np.square(one).sum() * np.square(other).sum()))
    return float((one * other).sum()) / scale if scale > 0 and np.isfinite(scale) else 0.0
