"""Samples as a model takes them: along the dimension of each input that counts them, or without one.

The sources deliver the samples of every input along the first dimension. Where the model has them elsewhere, this is
the last step before a run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.source import Source, elements, groups
from onnx_lowrank.interface import Feeds, TensorSpec


def without_axis(specs: Sequence[TensorSpec]) -> frozenset[str]:
    """Return the names of the inputs that no dimension counts samples of."""
    return frozenset(spec.name for spec in specs if spec.axis is None or spec.shape == ())


def samples_first(spec: TensorSpec) -> TensorSpec:
    """Return an input as the sources see it: with the dimension that counts samples in front."""
    if spec.shape is None or (spec.axis == 0 and spec.shape):
        return spec
    if not spec.shape or spec.axis is None:
        return replace(spec, shape=(None, *spec.shape), axis=0)
    count = spec.shape[spec.axis]
    return replace(spec, shape=(count, *spec.shape[: spec.axis], *spec.shape[spec.axis + 1 :]), axis=0)


def as_fed(samples: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Return samples [n, ...] as an input takes them; an input without a dimension for samples takes the first one."""
    if spec.shape is None or (spec.axis == 0 and spec.shape[:1] not in ((), (1,))):
        return samples
    if samples.ndim == len(spec.shape) + 1:
        return np.asarray(samples[0])
    return np.ascontiguousarray(np.moveaxis(samples, 0, spec.axis)) if spec.axis and spec.shape else samples


def unread(spec: TensorSpec, samples: int) -> NDArray[Any]:
    """Return zeros for an input that no node reads, but that has to be fed all the same."""
    made = [samples if axis == spec.axis else 1 for axis in range(len(spec.shape or ()))]
    sides = [side if isinstance(side, int) else size for side, size in zip(spec.shape or (), made, strict=True)]
    return np.zeros(sides, spec.dtype)


@dataclass(frozen=True)
class Arranged:
    """The samples of a source as a model takes them.

    Attributes
    ----------
    source
        The samples of every input that is read, along the first dimension.
    specs
        All inputs of the model.
    """

    source: Source
    specs: tuple[TensorSpec, ...]

    @property
    def description(self) -> str:
        """See ``Source``."""
        return self.source.description

    @property
    def synthetic(self) -> bool:
        """See ``Source``."""
        return self.source.synthetic

    @property
    def groups(self) -> NDArray[np.int64]:
        """See ``source.groups``."""
        return groups(self.source)

    @property
    def elements(self) -> NDArray[np.int64]:
        """See ``source.elements``."""
        return elements(self.source)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.source)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch, in the order of the model's inputs."""
        samples = self.source.feeds(indices)
        specs = {spec.name: spec for spec in self.specs}
        given = {name: as_fed(value, specs[name]) if name in specs else value for name, value in samples.items()}
        missing = (spec for spec in self.specs if spec.name not in given and not spec.read)
        return given | {spec.name: unread(spec, len(indices)) for spec in missing}


def arranged(source: Source, specs: tuple[TensorSpec, ...]) -> Source:
    """Return a source of samples as a model takes them; the source itself where it delivers them so."""
    usual = all(spec.read and samples_first(spec) is spec for spec in specs)
    return source if usual else Arranged(source, specs)
