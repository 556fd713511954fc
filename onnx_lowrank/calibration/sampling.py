"""The division of the samples: some are solved on, some judge the solutions, and some only validate the result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import positions
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 32
"""This share of the samples is withheld from the solvers for validation, and at most this number."""

JUDGE_EVERY = 5
"""One batch in this many judges the solutions."""

LARGEST_BATCH = 4
"""A run takes at most this many samples: more gain no speed on a CPU and cost memory."""

Batches = tuple[tuple[int, ...], ...]
"""The indices of the samples that the network runs on together, for every run."""


@dataclass(frozen=True)
class Sampling:
    """The samples of a run: which of them run together, and at which positions they are sampled.

    Attributes
    ----------
    source
        The samples.
    batches
        The calibration samples, in batches.
    judges
        [number of batches], bool: the batches that judge the solutions and take no part in finding them. The rows of a
        photo resemble each other, so whole photos judge, never some rows of a photo that was solved on.
    validation
        The samples that no solver sees, in batches; empty where there are too few samples to spare any.
    fixed
        Whether the model demands the batch size.
    seed
        The seed of the sampled positions.
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
        """The smallest batch that the model takes: one sample, unless it fixes the number."""
        return self.batches[0] if self.fixed else self.batches[0][:1]

    def like(self, samples: int) -> Batches:
        """Return batches of the usual size for another source.

        If the batch size is fixed, the last samples that do not fill a batch are left out.

        Parameters
        ----------
        samples
            The number of samples of the other source.
        """
        size = len(self.batches[0])
        return _batches(range(samples - samples % size if self.fixed else samples), size)

    def positions(self, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
        """Return the positions at which a batch is sampled at a site; see ``calibration.positions.positions``."""
        return positions(self.seed, name, batch, size, count)

    def judging_rows(self, rows: int) -> NDArray[np.bool_]:
        """Return [rows], bool: the rows of a site that judge its solutions.

        Rows are ordered by batch, and every sample has the same number of them.
        """
        mask = np.repeat(self.judges, [len(batch) for batch in self.batches])
        if not mask.any():  # the rows of a single batch have to judge each other
            judging: NDArray[np.bool_] = np.arange(rows) % JUDGE_EVERY == JUDGE_EVERY - 1
            return judging
        return np.repeat(mask, rows // len(mask))


def split(source: Source, specs: tuple[TensorSpec, ...], seed: int) -> Sampling:
    """Divide the samples in their order, which is a fair mixture already.

    Parameters
    ----------
    source
        The samples.
    specs
        The model's inputs.
    seed
        The seed of the sampled positions.

    Raises
    ------
    DataError
        If the model demands a batch size that the data cannot fill.
    """
    fixed = {spec.shape[0] for spec in specs if spec.shape and isinstance(spec.shape[0], int)}
    n = len(source)
    if fixed:
        size = max(dimension for dimension in fixed if isinstance(dimension, int))
        if n < size:
            raise DataError(f"the model takes batches of {size} samples and the data holds {n}: give more samples")
        n -= n % size
    else:
        size = min(LARGEST_BATCH, max(1, n // 10))
    withheld = min(round(n * VALIDATION_SHARE), VALIDATION_MOST)
    if fixed:  # whole batches, so that one to solve on and one to judge are left
        withheld = min(-(-withheld // size), max(0, n // size - 2)) * size
    batches = _batches(range(n - withheld), size)
    judges = np.arange(len(batches)) % JUDGE_EVERY == JUDGE_EVERY // 2
    if len(batches) > 1 and not judges.any():
        judges[-1] = True
    return Sampling(source, batches, judges, _batches(range(n - withheld, n), size), bool(fixed), seed)


def _batches(indices: range, size: int) -> Batches:
    return tuple(tuple(indices[i : i + size]) for i in range(0, len(indices), size))
