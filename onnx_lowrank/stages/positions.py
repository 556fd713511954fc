"""The number of positions at which every layer is sampled in the output of every sample.

Samples of one size share what a layer needs. Among samples of several sizes a small one gives all that it has, and the
larger ones make up for it.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.find.site import ConvSite

ROWS_PER_FILTER, FEWEST_ROWS, MOST_ROWS = 50, 25_000, 40_000
"""The number of rows that a layer should have: many times its unknowns per response, within reason. A fifth more makes
VGG-16's last layers about 1 % better, in a fifth more time of solving."""

SMALL_KERNEL, FEWEST_ROWS_OF_SMALL = 1_000_000, 30_000
"""The number of weights below which solving takes little time, and the fewest rows of such a layer."""

ROWS_OF_DEPTHWISE = 8_000
"""The number of rows of a depthwise layer. Each of its channels has few unknowns, and all of them take their time."""

MOST_OF_ONE = 4
"""A large sample among small ones has at most this many times the positions of an equal share."""


def positions_per_sample(
    families: Sequence[Family], sizes: Mapping[str, tuple[int, ...]], amounts: NDArray[np.float64], memory: int
) -> dict[str, int]:
    """Return the number of positions that are sampled in the output of every sample at most, by site name.

    Sites that share a weight also share the rows that it needs. A map that has fewer positions than its share leaves
    the rest to larger ones, so small maps are heard in full and large ones equally.

    Parameters
    ----------
    families
        The sites by their weights.
    sizes
        The size of the output along the spatial axes, by site name, for a sample of the middle size.
    amounts
        The size of every sample relative to that one, shape [number of samples].
    memory
        The number of bytes that the rows of all sites may take together.
    """
    counts: dict[str, int] = {}
    needed, samples = 0, len(amounts)
    for family in families:
        left = -(-rows_wanted(family.members[0]) // samples)
        smallest_first = sorted(family.names, key=lambda name: math.prod(sizes[name]))
        for number, name in enumerate(smallest_first):
            own = max(1, left // (len(smallest_first) - number))
            # A map grows with its sample.
            available = np.maximum(np.round(math.prod(sizes[name]) * amounts), 1).astype(np.int64)
            counts[name] = min(level(available, own * samples), MOST_OF_ONE * own)
            taken = int(np.minimum(available, counts[name]).sum())
            left -= -(-taken // samples)
            needed += 4 * taken * len(family.members[0].kernel)
    share = min(1.0, memory / needed)
    return {name: max(1, int(count * share)) for name, count in counts.items()}


def rows_wanted(site: ConvSite) -> int:
    """Return the number of rows that a layer should have."""
    if site.depthwise:
        return ROWS_OF_DEPTHWISE
    fewest = FEWEST_ROWS_OF_SMALL if site.kernel.size < SMALL_KERNEL else FEWEST_ROWS
    return min(max(ROWS_PER_FILTER * len(site.kernel), fewest), MOST_ROWS)


def level(available: NDArray[np.int64], wanted: int) -> int:
    """Return the smallest c for which Σ min(c, available) reaches what is wanted, or the largest number available."""
    ordered = np.sort(available)
    before = np.concatenate([[0], np.cumsum(ordered)[:-1]])
    # With c between ordered[i - 1] and ordered[i] the sum is before[i] + (n - i) c.
    level = np.maximum(-(-(wanted - before) // np.arange(len(ordered), 0, -1)), 1)
    enough = np.flatnonzero(level <= ordered)
    return int(level[enough[0]] if len(enough) else ordered[-1])
