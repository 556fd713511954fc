"""A source that notices samples that add nothing: copies, constants, and samples that are all alike.

Nothing is read for this alone. The source keeps a digest of every sample that it delivers, and a few thousand of its
values.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.source import Source, elements, groups
from onnx_lowrank.interface import Feeds

MOST_VALUES = 4096
"""The number of values of a sample that are compared with those of the others."""

ALIKE = 1e-3
"""Samples that differ by less than this share of their size are nearly the same."""


@dataclass(frozen=True)
class Seen:
    """The traces of one sample.

    Attributes
    ----------
    digest
        A digest, which is equal for equal samples.
    constant
        Whether each of its inputs is the same number everywhere; false if no input has several numbers.
    values
        Some of its values by input, at most ``MOST_VALUES`` together, float64.
    """

    digest: bytes
    constant: bool
    values: Mapping[str, NDArray[np.float64]]


class Watched:
    """A source that delivers the samples of another one and notes them.

    Parameters
    ----------
    source
        The other one.
    axes
        The dimension of every input that counts the samples; None where none does, the first where it is not stated.
    """

    def __init__(self, source: Source, axes: Mapping[str, int | None] | None = None) -> None:
        self._source, self._axes = source, axes or {}
        self._seen: dict[int, Seen] = {}

    @property
    def source(self) -> Source:
        """The source that is watched."""
        return self._source

    def over(self, source: Source) -> "Watched":
        """Return a watched source of the same inputs that has seen nothing."""
        return Watched(source, self._axes)

    @property
    def description(self) -> str:
        """See ``Source``."""
        return self._source.description

    @property
    def synthetic(self) -> bool:
        """See ``Source``."""
        return self._source.synthetic

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._source)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch, and note the samples in it that were not seen before."""
        feeds = self._source.feeds(indices)
        for row, index in enumerate(indices):
            own = {name: self._sample(name, value, row, len(indices)) for name, value in feeds.items()}
            sample = {name: value for name, value in own.items() if value is not None}
            if sample and index not in self._seen:
                self._seen[index] = look(sample)
        return feeds

    def _sample(self, name: str, value: NDArray[Any], row: int, samples: int) -> NDArray[Any] | None:
        """Return what an input takes of one sample; None where its samples cannot be told apart."""
        axis = self._axes.get(name, 0)
        if axis is None:
            return value
        return value.take(row, axis) if value.ndim > axis and value.shape[axis] == samples else None

    @property
    def groups(self) -> NDArray[np.int64]:
        """See ``source.groups``."""
        return groups(self._source)

    @property
    def elements(self) -> NDArray[np.int64]:
        """See ``source.elements``."""
        return elements(self._source)

    def complaint(self) -> str | None:
        """Return a line on the samples seen so far that add nothing; None if each adds something."""
        seen = [self._seen[index] for index in sorted(self._seen)]
        distinct = {sample.digest: sample for sample in seen}
        repeated, constant = len(seen) - len(distinct), sum(sample.constant for sample in distinct.values())
        if len(seen) < 2:
            return None
        if len(distinct) == 1:
            return f"all {len(seen)} calibration samples are the same: give samples that differ, as the model sees them"
        if constant == len(distinct):
            return (
                f"all {len(seen)} calibration samples are constant, the same number everywhere in each input: "
                "give samples such as the model will see"
            )
        # A rate of 16000 beside audio of 0.1 must not decide how much the samples differ.
        several = [sample.values for sample in distinct.values()]
        difference = max((spread([values[name] for values in several]) for name in several[0]), default=1.0)
        if difference < ALIKE:
            return (
                f"the {len(seen)} calibration samples are nearly the same (they differ by {100 * difference:.2g} % of "
                "their size): give samples that differ, as the model sees them"
            )
        if repeated + constant == 0:
            return None
        parts = [
            f"{repeated} {'repeats' if repeated == 1 else 'repeat'} another one exactly" if repeated else "",
            f"{constant} {'is' if constant == 1 else 'are'} constant" if constant else "",
        ]
        return (
            f"{repeated + constant} of {len(seen)} calibration samples add nothing: {' and '.join(filter(None, parts))}"
        )


def look(sample: Mapping[str, NDArray[Any]]) -> Seen:
    """Return the traces of a sample, which has an array for every input."""
    digest = hashlib.blake2b(digest_size=16)
    values = {}
    for name, value in sample.items():
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
        flat = value.reshape(-1)
        values[name] = flat[:: max(1, flat.size * len(sample) // MOST_VALUES)]
    several = [value for value in sample.values() if value.size > 1]
    constant = bool(several) and all((value == value.reshape(-1)[0]).all() for value in several)
    numbers = {name: part.astype(np.float64) for name, part in values.items() if part.dtype.kind in "fiub"}
    return Seen(digest.digest(), constant, numbers)


def spread(samples: Sequence[NDArray[np.float64]]) -> float:
    """Return how far samples [m] are from their mean, relative to their size; 1 if they have several lengths."""
    if len({len(sample) for sample in samples}) > 1 or not len(samples[0]):
        return 1.0
    values = np.stack(samples)
    size = float(np.square(values).mean())
    return float((np.square(values - values.mean(axis=0)).mean() / size) ** 0.5) if size > 0 else 1.0
