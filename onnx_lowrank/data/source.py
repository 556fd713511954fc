"""A finite collection of samples, and a part of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.choose import counted
from onnx_lowrank.interface import Feeds


@runtime_checkable
class Source(Protocol):
    """A finite collection of samples that can be read again and again."""

    @property
    def description(self) -> str:
        """What the samples are, for the report: "300 of 2500 images in train (preset caffe)"."""

    @property
    def synthetic(self) -> bool:
        """Whether the samples are made up."""

    def __len__(self) -> int:
        """Count the samples."""

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """One batch: for every input an array in the model's dtype, first axis of length ``len(indices)``."""


@dataclass(frozen=True)
class Subset:
    """Some samples of another source; ``order`` has shape [n]."""

    whole: Source
    order: NDArray[np.int64]

    @property
    def description(self) -> str:
        """The whole's description, with the share that is taken."""
        return f"{counted(len(self.order), len(self.whole), 'samples')} of: {self.whole.description}"

    @property
    def synthetic(self) -> bool:
        """Whether the samples are made up."""
        return self.whole.synthetic

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.order)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """One batch."""
        return self.whole.feeds(self.order[np.asarray(indices, np.int64)].tolist())
