"""The values of the tensors that are to be rounded, from one pass over the samples."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.shard import Tap
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.factorise.rounding.grid import MOST_VALUES, Codes
from onnx_lowrank.graph.quantise.placement import Pair
from onnx_lowrank.graph.quantise.streams import find_streams
from onnx_lowrank.stages.observed import Observed, Values
from onnx_lowrank.stages.one_range import with_one_range
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.roundable import Roundables
from onnx_lowrank.stages.run import Run

Array = NDArray[Any]

ROWS_OF_CHANNELS = 4_000
"""About so many values of every channel tell its range, where channels are brought to one range."""


def observe(run: Run, prepared: Prepared, found: Roundables, pairs: Sequence[Pair], codes: Codes) -> Observed:
    """Look at the tensors that may be rounded, in one pass, and bring channels to one range where that is possible.

    Parameters
    ----------
    run, prepared
        The surroundings, and the results up to the plan.
    found
        The network and its layers.
    pairs
        The tensors that may be rounded.
    codes
        The whole numbers that they are stored in.
    """
    sampling = prepared.sampled.sampling
    streams = find_streams(found.network, {layer.site.output for layer in found.layers})
    channels = {name for stream in streams for name in stream.tensors}
    per_batch = max(256, MOST_VALUES // len(sampling.batches))
    per_sample = max(1, -(-ROWS_OF_CHANNELS // sampling.samples))
    taps = [
        Tap(pair.tensor, pair.tensor, per_sample) if pair.tensor in channels else Tap(pair.tensor, None, per_batch)
        for pair in pairs
        if pair.like is None
    ]
    sources = {pair.tensor: pair.like for pair in pairs if pair.like is not None}
    observed = Observed(found.network.copy(), found.layers, _values(run, prepared, found, taps), codes, sources)
    return with_one_range(observed, streams)


def _values(run: Run, prepared: Prepared, found: Roundables, taps: Sequence[Tap]) -> dict[str, Values]:
    """Return the values of tensors; those of samples that choose tell best which grid suits others."""
    sampling = prepared.sampled.sampling
    choosing = sampling.judges if sampling.judges.any() else np.ones(len(sampling.batches), np.bool_)
    samples: dict[str, list[Array]] = defaultdict(list)
    low, high = dict[str, float](), dict[str, float]()
    with open_shards(found.network, sampling, run.open_session, found.macs.all, run.shards) as shard:
        for seen in shard.taps(taps):
            low[seen.tensor] = min(seen.low, low.get(seen.tensor, seen.low))
            high[seen.tensor] = max(seen.high, high.get(seen.tensor, seen.high))
            if choosing[seen.batch] or seen.values.ndim > 1:
                samples[seen.tensor].append(seen.values)
    return {name: Values(np.concatenate(own), low[name], high[name]) for name, own in samples.items()}
