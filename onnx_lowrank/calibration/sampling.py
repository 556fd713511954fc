"""The division of the samples in three: those that solve, those that choose, and those that only judge the result.

What was chosen to suit some samples looks better on them than it is, so the samples that choose (``judges``: between
ridges, numbers of passes, the old layer or the new) say nothing about the result. That is left to the samples of
``validation``, a fifth of all, which nothing before the comparison of the outputs looks at.

Samples that choose take part in a last pass of the solvers, so they cannot tell either how good a solved model is on
others. Where models of several speedups are solved and one is chosen, further samples (``appraising``) take no part in
solving and none in judging. They are drawn beyond the others, so that these stay what they are; where the data have no
more, half of those that would judge take their place.

Only samples of one shape can share a run. Where they have several shapes, every batch holds samples of one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import draw_positions
from onnx_lowrank.data.source import Source, elements
from onnx_lowrank.data.source import groups as groups_of
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
    appraising
        The samples that choose among solved models, and that no solver sees; empty where nothing is chosen.
    sizes
        The number of elements of every sample, in units of that of ``single``, shape [number of samples]; empty where
        all are of one shape.
    """

    source: Source
    batches: Batches
    judges: NDArray[np.bool_]
    validation: Batches
    fixed: bool
    seed: int
    sizes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    appraising: Batches = ()

    @property
    def samples(self) -> int:
        """The number of calibration samples."""
        return sum(map(len, self.batches))

    @property
    def single(self) -> tuple[int, ...]:
        """The smallest batch that the model takes: one sample, unless the model demands a batch size.

        Where the samples have several sizes, it is one of the middle size, which stands for all of them.
        """
        batch = self.batches[0]
        if len(self.sizes):
            order = sorted(self.batches, key=lambda batch: float(self.sizes[batch[0]]))
            ends = np.cumsum([len(batch) for batch in order])
            batch = order[int(np.searchsorted(ends, ends[-1] / 2))]
        return batch if self.fixed else batch[:1]

    def amounts(self, batches: Iterable[int] | None = None) -> NDArray[np.float64]:
        """Return the sizes of the samples of some batches, or of all, in units of that of ``single``, one for each."""
        chosen = self.batches if batches is None else [self.batches[batch] for batch in batches]
        samples = [sample for batch in chosen for sample in batch]
        return self.sizes[samples] if len(self.sizes) else np.ones(len(samples))

    def alike(self, sample: int) -> tuple[int, ...]:
        """Return the calibration samples that may share a run with one of them."""
        groups = groups_of(self.source)
        return tuple(sorted(other for batch in self.batches for other in batch if groups[other] == groups[sample]))

    def like(self, source: Source) -> Batches:
        """Return batches of the same size for another source, without samples that do not fill a demanded size."""
        size = max(map(len, self.batches))
        return _batches(range(len(source)), size, _groups(source, size), whole=self.fixed)

    def first_batches(self, samples: int) -> int:
        """Return the number of batches, from the first one on, that hold this many samples, or of all batches."""
        held = np.cumsum([len(batch) for batch in self.batches])
        return min(int(np.searchsorted(held, samples)) + 1, len(self.batches))

    def positions(self, name: str, batch: int, size: Sequence[int], count: int) -> NDArray[np.int64]:
        """Return the output positions at which a site is sampled in a batch; see :func:`draw_positions`."""
        return draw_positions(self.seed, name, batch, size, count)

    def judging_rows(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of a site's rows judge.

        Parameters
        ----------
        positions
            The number of rows from every sample, shape [samples], in the order of the batches.

        Returns
        -------
        NDArray[np.bool_]
            Whether each row judges, shape [rows].
        """
        mask = np.repeat(self.judges, [len(batch) for batch in self.batches])
        if not mask.any():  # in a single batch, some rows judge the solution on the others
            judging: NDArray[np.bool_] = np.arange(positions.sum()) % JUDGE_EVERY == JUDGE_EVERY - 1
            return judging
        return np.repeat(mask, positions)


def split(
    source: Source, specs: tuple[TensorSpec, ...], seed: int, *, together: bool = True, first: int | None = None
) -> Sampling:
    """Divide the samples in the order of the source, which is already a fair mixture.

    Parameters
    ----------
    source
        The samples.
    specs
        The model's inputs; a static dimension that counts samples is a demanded batch size.
    seed
        The seed of the positions.
    together
        Whether several samples may share a run, where the model leaves their number open.
    first
        The number of samples that solve, choose and judge; those beyond appraise models. None for all, without any.

    Returns
    -------
    Sampling
        The batches of the samples and their roles, without samples that do not fill a demanded batch size.

    Raises
    ------
    DataError
        If the model demands a batch size that the data cannot fill.
    """
    # Without inputs, a run is one sample.
    n, demanded = min(len(source), first or len(source)), demanded_batch(specs) if together and specs else 1
    if demanded:
        size = demanded
        if n < size:
            raise DataError(f"the model takes batches of {size} samples, but the data hold only {n}: give more")
    else:
        size = min(LARGEST_BATCH, max(1, n // 10))
    groups = _groups(source, size)
    if demanded:
        n -= n % size
    withheld = round(n * (VALIDATION_SHARE_OF_FEW if n < FEW else VALIDATION_SHARE))
    if demanded:  # whole batches, as long as one to solve on and one to judge remain
        withheld = min(-(-withheld // size), max(0, n // size - 2)) * size
    batches = _batches(range(n - withheld), size, groups, whole=demanded is not None)
    if not batches:
        raise DataError(
            f"the model takes batches of {size} samples, and there are not as many of one size: give more, or bring "
            "them to one size"
        )
    judges = np.arange(len(batches)) % JUDGE_EVERY == JUDGE_EVERY // 2
    if len(batches) > 1 and not judges.any():
        judges[-1] = True
    validation = _batches(range(n - withheld, n), size, groups, whole=demanded is not None)
    beyond = _batches(range(n, len(source)), size, groups, whole=demanded is not None)
    validation, appraising = _shared_out(validation, beyond) if first else (validation, ())
    sampling = Sampling(source, batches, judges, validation, demanded is not None, seed, appraising=appraising)
    counts = elements(source)
    if len(set(counts.tolist())) <= 1 and len(set(groups.tolist())) <= 1:
        return sampling
    sampling = replace(sampling, sizes=counts.astype(np.float64))
    return replace(sampling, sizes=counts / counts[sampling.single[0]])


def _shared_out(validation: Batches, beyond: Batches) -> tuple[Batches, Batches]:
    """Return the batches that judge and those that appraise, given those that would judge and the ones beyond."""
    if sum(map(len, beyond)) >= sum(map(len, validation)):
        return validation, beyond
    together = (*validation, *beyond)
    return together[::2], together[1::2]


def demanded_batch(specs: Sequence[TensorSpec]) -> int | None:
    """Return the number of samples that a model with these inputs demands in a run; None where it leaves it open.

    A model without a dimension for samples takes one at a time.
    """
    read = [spec for spec in specs if spec.read]
    counting = [spec for spec in read if spec.axis is not None and spec.shape != ()]
    if read and not counting:
        return 1
    sides = (spec.shape[spec.axis] for spec in counting if spec.shape and spec.axis is not None)
    return max((side for side in sides if isinstance(side, int)), default=None)


def _groups(source: Source, size: int) -> NDArray[np.int64]:
    """Return the groups of samples that may share a batch; where every batch is one sample, there is nothing to ask."""
    return np.zeros(len(source), np.int64) if size == 1 else groups_of(source)


def _batches(indices: range, size: int, groups: NDArray[np.int64], *, whole: bool) -> Batches:
    """Divide samples into batches of one group each, in the order in which the batches are full.

    Parameters
    ----------
    indices
        The numbers of the samples.
    size
        The number of samples in a batch.
    groups
        The group of every sample of the source.
    whole
        Whether samples that do not fill a batch are left out; otherwise they make smaller ones at the end.
    """
    batches: list[tuple[int, ...]] = []
    open_batches: dict[int, list[int]] = {}
    for index in indices:
        batch = open_batches.setdefault(int(groups[index]), [])
        batch.append(index)
        if len(batch) == size:
            batches.append(tuple(open_batches.pop(int(groups[index]))))
    if not whole:
        batches += map(tuple, open_batches.values())
    return tuple(batches)
