"""The interface of every finite collection of samples, what keeps samples from sharing a run, and a subset."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.messages import counted
from onnx_lowrank.interface import Feeds


@runtime_checkable
class Source(Protocol):
    """A finite collection of samples that can be read again and again."""

    @property
    def description(self) -> str:
        """Describes the samples in the report, such as "300 of 2500 images in train (preset caffe)"."""

    @property
    def synthetic(self) -> bool:
        """Whether the samples are made up."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch.

        Parameters
        ----------
        indices
            Sample numbers in 0..len(self) - 1, in the order wanted.

        Returns
        -------
        Feeds
            For every input an array in the model's dtype, shape [len(indices), ...].
        """


def groups(source: Source) -> NDArray[np.int64]:
    """Return the group of every sample: only samples of one group may share a run, because they have one shape.

    Returns
    -------
    NDArray[np.int64]
        Numbers of groups, shape [n]; all the same for a source that does not state them.
    """
    stated: NDArray[np.int64] | None = getattr(source, "groups", None)
    return np.zeros(len(source), np.int64) if stated is None else stated


def elements(source: Source) -> NDArray[np.int64]:
    """Return the number of elements of all inputs of every sample, shape [n]; 1 for a source that does not state it."""
    stated: NDArray[np.int64] | None = getattr(source, "elements", None)
    return np.ones(len(source), np.int64) if stated is None else stated


@dataclass(frozen=True)
class Subset:
    """Some samples of another source.

    Attributes
    ----------
    whole
        The other source.
    order
        Sample numbers in the whole, shape [n].
    """

    whole: Source
    order: NDArray[np.int64]

    @property
    def description(self) -> str:
        """The description of the whole, preceded by the share that is taken."""
        return f"{counted(len(self.order), len(self.whole), 'sample')} of: {self.whole.description}"

    @property
    def synthetic(self) -> bool:
        """Whether the samples are made up."""
        return self.whole.synthetic

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.order)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch."""
        return self.whole.feeds(self.order[np.asarray(indices, np.int64)].tolist())

    @property
    def groups(self) -> NDArray[np.int64]:
        """See the function."""
        return groups(self.whole)[self.order]

    @property
    def elements(self) -> NDArray[np.int64]:
        """See the function."""
        return elements(self.whole)[self.order]
