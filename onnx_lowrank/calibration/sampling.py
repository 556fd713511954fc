"""The division of the samples in three: those that solve, those that choose, and those that only judge the result.

What was chosen to suit some samples looks better on them than it is, so the samples that choose (``judges``: between
ridges, numbers of passes, the old layer or the new) say nothing about the result. That is left to the samples of
``validation``, a fifth of all, which nothing before the comparison of the outputs looks at.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import draw_positions
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

VALIDATION_SHARE = 0.2
"""The share of the samples that only judge the result."""

FEW, VALIDATION_SHARE_OF_FEW = 10, 0.1
"""The number of samples below which solving needs them more than judging does, and the share that judges there."""

JUDGE_EVERY = 5
"""One batch in this many judges the solutions."""

LARGEST_BATCH = 4
"""The largest batch of a model that leaves its size open; a larger one costs memory and gains no speed on a CPU."""

Batches: TypeAlias = tuple[tuple[int, ...], ...]
"""Sample numbers, a tuple for every run of the network."""


@dataclass(frozen=True)
class Sampling:
    """The batches of the samples, their roles, and the positions at which sites are sampled.

    Attributes
    ----------
    source
        The samples.
    batches
        The calibration samples.
    judges
        Whether each batch chooses between solutions and takes no part in finding them, shape [number of batches]. Whole
        images judge, never some rows of an image that was solved on, since the rows of one image resemble each other.
    validation
        The samples that only judge the result, and that no solver sees; empty if there are too few to spare any.
    fixed
        Whether the model demands the batch size.
    seed
        The seed of the positions.
    """

    source: Source
    batches: Batches
    judges: NDArray[np.bool_]
    validation: Batches
    fixed: bool
    seed: int

    @property
    def samples(self) -> int:
        """The number of calibration samples."""
        return sum(map(len, self.batches))

    @property
    def single(self) -> tuple[int, ...]:
        """The smallest batch that the model takes: one sample, unless the model demands a batch size."""
        return self.batches[0] if self.fixed else self.batches[0][:1]

    def like(self, samples: int) -> Batches:
        """Return batches of the same size for another source, without samples that do not fill a demanded size."""
        size = len(self.batches[0])
        return _batches(range(samples - samples % size if self.fixed else samples), size)

    def positions(self, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
        """Return the output positions at which a site is sampled in a batch; see :func:`draw_positions`."""
        return draw_positions(self.seed, name, batch, size, count)

    def judging_rows(self, rows: int) -> NDArray[np.bool_]:
        """Return which of a site's rows judge.

        Parameters
        ----------
        rows
            The number of rows, which come in the order of the batches, the same number from every sample.

        Returns
        -------
        NDArray[np.bool_]
            Whether each row judges, shape [rows].
        """
        mask = np.repeat(self.judges, [len(batch) for batch in self.batches])
        if not mask.any():  # in a single batch, some rows judge the solution on the others
            judging: NDArray[np.bool_] = np.arange(rows) % JUDGE_EVERY == JUDGE_EVERY - 1
            return judging
        return np.repeat(mask, rows // len(mask))


def split(source: Source, specs: tuple[TensorSpec, ...], seed: int) -> Sampling:
    """Divide the samples in the order of the source, which is already a fair mixture.

    Parameters
    ----------
    source
        The samples.
    specs
        The model's inputs; a static first dimension is a demanded batch size.
    seed
        The seed of the positions.

    Returns
    -------
    Sampling
        The batches of the samples and their roles, without samples that do not fill a demanded batch size.

    Raises
    ------
    DataError
        If the model demands a batch size that the data cannot fill.
    """
    n, demanded = len(source), demanded_batch(specs) if specs else 1  # without inputs, a run is one sample
    if demanded:
        size = demanded
        if n < size:
            raise DataError(f"the model takes batches of {size} samples, but the data hold only {n}: give more")
        n -= n % size
    else:
        size = min(LARGEST_BATCH, max(1, n // 10))
    withheld = round(n * (VALIDATION_SHARE_OF_FEW if n < FEW else VALIDATION_SHARE))
    if demanded:  # whole batches, as long as one to solve on and one to judge remain
        withheld = min(-(-withheld // size), max(0, n // size - 2)) * size
    batches = _batches(range(n - withheld), size)
    judges = np.arange(len(batches)) % JUDGE_EVERY == JUDGE_EVERY // 2
    if len(batches) > 1 and not judges.any():
        judges[-1] = True
    return Sampling(source, batches, judges, _batches(range(n - withheld, n), size), demanded is not None, seed)


def demanded_batch(specs: Sequence[TensorSpec]) -> int | None:
    """Return the batch size that a model with these inputs demands; None where it leaves the size open."""
    first_sides = (spec.shape[0] for spec in specs if spec.shape)
    return max((side for side in first_sides if isinstance(side, int)), default=None)


def _batches(indices: range, size: int) -> Batches:
    return tuple(tuple(indices[i : i + size]) for i in range(0, len(indices), size))
