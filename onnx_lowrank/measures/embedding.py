"""Embeddings, of which the direction counts: the mean cosine of the angle to those of the original.

An output is an embedding if it is a vector of length 1 for every sample, and not a distribution over classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch

Array = NDArray[Any]

NAME = "embedding"

NEEDS = "a floating-point output [samples, features]"

NEAR = 0.01
"""By how much the length of an embedding may differ from 1."""

FEWEST = 16
"""The smallest number of features of an embedding that is recognised."""


@dataclass(frozen=True)
class Embedding:
    """The task of an embedding; see :class:`~onnx_lowrank.measures.task.Task`. An answer is an array [features]."""

    output: str
    name: str = NAME
    kind: str | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""
        return (self.output,)

    def answers(self, batch: Batch) -> list[Array] | None:
        """Return the embedding of every sample."""
        return _vectors(batch, self.output)

    def truth(self, answer: Array) -> Array:
        """Return the embedding as it is."""
        return answer

    def score(self, truth: Array, answer: Array) -> float | None:
        """Return the cosine of the angle between two embeddings; two of length 0 have the same direction."""
        if truth.shape != answer.shape:
            return None
        one, other = truth.astype(np.float64), answer.astype(np.float64)
        scale = float(np.linalg.norm(one) * np.linalg.norm(other))
        return float(one @ other) / scale if scale > 0 else float(np.array_equal(one, other))

    def values(self, scores: Sequence[float], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the mean cosine."""
        return {"cosine": weights @ np.array(scores) / weights.sum(axis=1)}

    def details(self, scores: Sequence[float]) -> dict[str, float]:
        """Return the cosine of the sample that is furthest from the original's."""
        return {"lowest": min(scores)}


def _vectors(batch: Batch, name: str) -> list[Array] | None:
    """Return an output of one vector for every sample; sides of 1 behind it, such as pooling leaves, do not count."""
    value = batch.outputs.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return None
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if value.ndim == 2 and len(value) == batch.samples:
        return list(value)
    return [value] if value.ndim == 1 and batch.samples == 1 else None


def find(batches: Sequence[Batch], *, sure: bool = True) -> tuple[Embedding, ...]:
    """Look for outputs of one vector for every sample."""
    found = []
    for name in batches[0].outputs:
        vectors = [vector for batch in batches for vector in _vectors(batch, name) or ()]
        if vectors and (not sure or _proven(vectors)):
            found.append(Embedding(name))
    return tuple(found)


def _proven(vectors: Sequence[Array]) -> bool:
    """Return whether the vectors have length 1 and some of their values are negative, as probabilities never are."""
    lengths = np.array([float(np.linalg.norm(vector.astype(np.float64))) for vector in vectors])
    signed = all(vector.min(initial=0) < 0 for vector in vectors)
    return len(vectors[0]) >= FEWEST and signed and bool((np.abs(lengths - 1) <= NEAR).all())
