"""How the samples are divided: some are solved on, some judge the solutions, some only validate the result."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import positions
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError
from onnx_lowrank.interface import TensorSpec

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 32
"""The share of the samples that no solver sees, and the most that are worth withholding."""

JUDGE_EVERY = 5
"""One batch in so many judges."""

LARGEST_BATCH = 4
"""More samples in one run gain no speed on a CPU and cost memory."""

Batches = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Sampling:
    """Which samples are looked at together, and where.

    Attributes
    ----------
    source
        The samples.
    batches
        Indices of the calibration samples, a tuple for every run of the network.
    judges
        [number of batches], bool: batches that judge the solutions and take no part in finding them. A photo's rows
        resemble each other, so whole photos judge, never some rows of a photo that was solved on.
    validation
        Indices of the samples that no solver sees, in batches; empty where there are too few samples to spare any.
    fixed
        Whether the model demands the batch size.
    seed
        Of the positions.
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
        """Batches of the usual size for another source; what does not fill a batch of fixed size is left out."""
        size = len(self.batches[0])
        return _batches(range(samples - samples % size if self.fixed else samples), size)

    def positions(self, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
        """The places in the output map, of that size, at which a batch is sampled, at the site of that name."""
        return positions(self.seed, name, batch, size, count)

    def judging_rows(self, rows: int) -> NDArray[np.bool_]:
        """[rows], bool: which of a site's rows judge; rows come in batches, the same number from every sample."""
        mask = np.repeat(self.judges, [len(batch) for batch in self.batches])
        if not mask.any():  # a single batch: its rows have to judge each other, all but the first
            judging: NDArray[np.bool_] = np.arange(rows) % JUDGE_EVERY == JUDGE_EVERY - 1
            return judging
        return np.repeat(mask, rows // len(mask))


def split(source: Source, specs: tuple[TensorSpec, ...], seed: int) -> Sampling:
    """Divide the samples; the source's order is already a fair mixture.

    Raises
    ------
    DataError
        Where the model demands a batch size that the data cannot fill.
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
    if fixed:  # whole batches, as long as one to solve on and one to judge are left
        withheld = min(-(-withheld // size), max(0, n // size - 2)) * size
    batches = _batches(range(n - withheld), size)
    judges = np.arange(len(batches)) % JUDGE_EVERY == JUDGE_EVERY // 2
    if len(batches) > 1 and not judges.any():
        judges[-1] = True
    return Sampling(source, batches, judges, _batches(range(n - withheld, n), size), bool(fixed), seed)


def _batches(indices: range, size: int) -> Batches:
    return tuple(tuple(indices[i : i + size]) for i in range(0, len(indices), size))
