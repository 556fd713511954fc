"""Samples with the key from which a network computes its noise; see ``graph/edit/determine.py``.

Most of the samples that the layers are fitted to are run without noise. Noise takes part of what low ranks can hold,
mostly for directions that vary little without it. On an auto-encoder of eight layers with noise behind most of them,
at a speedup of 2, noise in all batches leaves three times the error without noise that calibrating without it would
leave; calibrating without it, however, leaves four times the error under noise. With noise in every tenth batch the
former is 1.3 times the least that was reached, and the latter 1.1 times.
"""

import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.source import Source, elements, groups
from onnx_lowrank.graph.chance import KEYS, Chance
from onnx_lowrank.interface import Feeds


class Always:
    """Holds every batch."""

    def __contains__(self, batch: object) -> bool:
        """Return True."""
        return True


NOISE_EVERY = 10
"""One of this many batches is run with noise."""


def without_noise(batches: Batches) -> frozenset[tuple[int, ...]]:
    """Return the calibration batches that are run without noise; the first one always has some."""
    return frozenset(batch for number, batch in enumerate(batches) if number % NOISE_EVERY)


@dataclass(frozen=True)
class Keyed:
    """Another source, every batch of which brings a key of its own.

    The same samples always bring the same key. With one key for all batches the noise would be a fixed pattern, to
    which layers could be fitted.

    Attributes
    ----------
    plain
        The other source.
    chance
        The inputs that the key and the strength of the noise go to.
    still
        The batches that are run without noise.
    seed
        Other seeds give other keys.
    """

    plain: Source
    chance: Chance
    still: Container[tuple[int, ...]]
    seed: int

    @property
    def description(self) -> str:
        """The description of the other source."""
        return self.plain.description

    @property
    def synthetic(self) -> bool:
        """Whether the samples are made up."""
        return self.plain.synthetic

    @property
    def groups(self) -> NDArray[np.int64]:
        """See ``source.groups``."""
        return groups(self.plain)

    @property
    def elements(self) -> NDArray[np.int64]:
        """See ``source.elements``."""
        return elements(self.plain)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.plain)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        """Return one batch, and its key as int64 [1]."""
        text = ",".join(str(int(index)) for index in (self.seed, *indices))
        key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % KEYS
        strength = float(tuple(indices) not in self.still)
        feeds = dict(self.plain.feeds(indices))
        feeds[self.chance.key] = np.array([key], np.int64)
        feeds[self.chance.strength] = np.array([strength], np.float32)
        return feeds
