"""Several shards that answer as one, and the division of a run's samples among them."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.local_shard import LocalShard
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.calibration.shard import (
    LayerSample,
    ProfileQuestion,
    RowsQuestion,
    Shard,
    SiteRows,
    Tap,
    Tapped,
    TensorsQuestion,
)
from onnx_lowrank.factorise.forms.form import Form
from onnx_lowrank.graph.edit.rewrite import Replacement
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import IntegerLayer
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Opener

Array = NDArray[Any]


class Shards:
    """Several shards as one, in the order of their batches.

    Parameters
    ----------
    shards
        The shards. Each may hold its share of the memory that a question names.
    shares
        The share of all samples that each shard holds.
    """

    def __init__(self, shards: Sequence[Shard], shares: Sequence[float]) -> None:
        self._shards, self._shares = shards, shares

    @property
    def macs_executed(self) -> int:
        """See ``Shard``."""
        return sum(shard.macs_executed for shard in self._shards)

    def profile(self, question: ProfileQuestion) -> Iterator[LayerSample]:
        """See ``Shard``."""
        return chain.from_iterable(shard.profile(question) for shard in self._shards)

    def taps(self, taps: Sequence[Tap]) -> Iterator[Tapped]:
        """See ``Shard``."""
        return chain.from_iterable(shard.taps(taps) for shard in self._shards)

    def rows(self, questions: Sequence[RowsQuestion], forms: Sequence[Form], memory: int) -> tuple[SiteRows, ...]:
        """See ``Shard``."""
        answers = [shard.rows(questions, forms, limit) for shard, limit in self._limits(memory)]
        return tuple(in_turn(of_site) for of_site in zip(*answers, strict=True))

    def reads(self, layer: DenseLayer, memory: int) -> Array:
        """See ``Shard``."""
        return np.concatenate([shard.reads(layer, limit) for shard, limit in self._limits(memory)])

    def results(self, network: Network, outputs: Sequence[str], first: int = 0) -> Iterator[tuple[int, Feeds]]:
        """See ``Shard``."""
        return chain.from_iterable(shard.results(network, outputs, first) for shard in self._shards)

    def tensors(self, question: TensorsQuestion, memory: int) -> Iterator[tuple[int, list[dict[str, Array]]]]:
        """See ``Shard``."""
        return chain.from_iterable(shard.tensors(question, limit) for shard, limit in self._limits(memory))

    @property
    def network(self) -> Network:
        """See ``Shard``."""
        return self._shards[0].network

    def mark(self) -> None:
        """See ``Shard``."""
        for shard in self._shards:
            shard.mark()

    def refined(self, values: Mapping[str, Array]) -> None:
        """See ``Shard``."""
        for shard in self._shards:
            shard.refined(values)

    def advance(self, replacements: Sequence[Replacement], macs: Sequence[int]) -> None:
        """See ``Shard``."""
        for shard in self._shards:
            shard.advance(replacements, macs)

    def round(self, replacement: Replacement, integers: IntegerLayer) -> None:
        """See ``Shard``."""
        for shard in self._shards:
            shard.round(replacement, integers)

    def reweight(self, layer: DenseLayer, weight: Array | None, bias: Array | None) -> bool:
        """See ``Shard``."""
        fits = [shard.reweight(layer, weight, bias) for shard in self._shards]  # all() alone would pass over some
        return all(fits)

    def _limits(self, memory: int) -> Iterator[tuple[Shard, int]]:
        """Divide the memory among the shards."""
        return ((shard, int(memory * share)) for shard, share in zip(self._shards, self._shares, strict=True))


def in_turn(parts: Sequence[SiteRows]) -> SiteRows:
    """Return the samples of all parts, one part after the other."""
    inputs = tuple(np.concatenate(own) for own in zip(*(part.inputs for part in parts), strict=True))
    shortcuts = [part.shortcut for part in parts if part.shortcut is not None]
    return SiteRows(inputs, np.concatenate(shortcuts) if shortcuts else None)


@contextlib.contextmanager
def open_shards(
    network: Network, sampling: Sampling, open_session: Opener, macs: Mapping[str, int], count: int = 1
) -> Iterator[Shard]:
    """Divide the samples among shards in this process, each with a copy of the network.

    Parameters
    ----------
    network
        The original network, which stays as it is.
    sampling, open_session, macs
        See ``LocalShard``.
    count
        The number of shards; there are never more than batches.
    """
    batches = len(sampling.batches)
    count = min(count, batches)
    ends = [batches * number // count for number in range(count + 1)]
    parts = [range(start, end) for start, end in pairwise(ends)]
    with contextlib.ExitStack() as stack:
        shards = [stack.enter_context(LocalShard(network.copy(), sampling, part, open_session, macs)) for part in parts]
        if count == 1:
            yield shards[0]
        else:
            sizes = [sum(len(sampling.batches[batch]) for batch in part) for part in parts]
            yield Shards(shards, [size / sum(sizes) for size in sizes])
