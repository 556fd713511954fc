"""The number of positions at which every layer is sampled."""

import math
from collections.abc import Mapping, Sequence

from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.find.sites import ConvSite

ROWS_PER_FILTER, FEWEST_ROWS, MOST_ROWS = 50, 25_000, 40_000
"""The number of rows that a layer should have: many times its unknowns per response, within reason. A fifth more makes
VGG-16's last layers about 1 % better, in a fifth more time of solving."""

SMALL_KERNEL, FEWEST_ROWS_OF_SMALL = 1_000_000, 30_000
"""The number of weights below which solving takes little time, and the fewest rows of such a layer."""

ROWS_OF_DEPTHWISE = 8_000
"""The number of rows of a depthwise layer. Each of its channels has few unknowns, and all of them take their time."""


def positions_per_sample(
    families: Sequence[Family], sizes: Mapping[str, tuple[int, ...]], samples: int, memory: int
) -> dict[str, int]:
    """Return the number of positions that are sampled in the output of every sample, by site name.

    Sites that share a weight also share the rows that it needs. A map that has fewer positions than its share leaves
    the rest to larger ones, so small maps are heard in full and large ones equally.

    Parameters
    ----------
    families
        The sites by their weights.
    sizes
        The size of the output along the spatial axes, by site name.
    samples
        The number of samples.
    memory
        The number of bytes that the rows of all sites may take together.
    """
    counts, needed = {}, 0
    for family in families:
        left = -(-rows_wanted(family.members[0]) // samples)
        smallest_first = sorted(family.names, key=lambda name: math.prod(sizes[name]))
        for number, name in enumerate(smallest_first):
            counts[name] = max(1, min(math.prod(sizes[name]), left // (len(smallest_first) - number)))
            left -= counts[name]
            needed += 4 * counts[name] * samples * len(family.members[0].kernel)
    share = min(1.0, memory / needed)
    return {name: max(1, int(count * share)) for name, count in counts.items()}


def rows_wanted(site: ConvSite) -> int:
    """Return the number of rows that a layer should have."""
    if site.depthwise:
        return ROWS_OF_DEPTHWISE
    fewest = FEWEST_ROWS_OF_SMALL if site.kernel.size < SMALL_KERNEL else FEWEST_ROWS
    return min(max(ROWS_PER_FILTER * len(site.kernel), fewest), MOST_ROWS)
