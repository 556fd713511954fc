"""What the original network does on the calibration samples: its costs, and its responses at every site.

One pass over the samples serves all sites: each batch runs once, and only sampled rows are kept, never whole
activations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import gather_points
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import DataError
from onnx_lowrank.graph.macs import counted_nodes, macs_by_output
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.graph.sites import ConvSite
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime import Opener

Array = NDArray[Any]

ROWS_PER_FILTER, FEWEST_ROWS, MOST_ROWS = 60, 10_000, 45_000
"""How many rows a regression should have: several times its unknowns per response, within reason."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sample by the output tensor of the node: of all counted nodes, and of the Convs."""

    all: dict[str, int]
    conv: dict[str, int]


@dataclass(frozen=True)
class Targets:
    """The original's responses at one site, before the activation.

    Attributes
    ----------
    rows
        [n, d], float32; the batches in order, of each its samples in order, of each its positions.
    per_sample
        The number of positions in every sample's output.
    """

    rows: Array
    per_sample: int


def measure_macs(graph: gs.Graph, sampling: Sampling, open_session: Opener) -> Macs:
    """Count by running the first batch once, so that dynamic shapes are the real ones."""
    tapped = counted_nodes(graph)
    session = open_session(whole(graph, tapped).SerializeToString(), "the model")
    batch = sampling.batches[0]
    feeds = sampling.source.feeds(batch)
    shapes = {name: value.shape for name, value in (feeds | session(feeds)).items()}
    counted = macs_by_output(graph, shapes)
    per_sample = {name: (op, macs // len(batch)) for name, (op, macs) in counted.items()}
    return Macs(
        {name: macs for name, (_, macs) in per_sample.items()},
        {name: macs for name, (op, macs) in per_sample.items() if op == "Conv"},
    )


def collect_targets(
    graph: gs.Graph, sites: Sequence[ConvSite], sampling: Sampling, open_session: Opener, progress: Progress
) -> dict[str, Targets]:
    """The one pass of the original network: the sampled responses of all sites, by site name.

    Raises
    ------
    DataError
        Where a response is not finite.
    """
    session = open_session(whole(graph, [site.output for site in sites]).SerializeToString(), "the model")
    parts: dict[str, list[Array]] = {site.name: [] for site in sites}
    counts: dict[str, int] = {}
    progress("profile", 0, len(sampling.batches))
    for b, batch in enumerate(sampling.batches):
        outputs = session(sampling.source.feeds(batch))
        for site in sites:
            y = outputs[site.output]
            size = (y.shape[2], y.shape[3])
            count = counts.setdefault(site.name, _positions_per_sample(site, size, sampling.samples))
            rows = gather_points(y, *sampling.positions(site.name, b, size, count)).astype(np.float32, copy=False)
            if not np.isfinite(rows).all():
                raise DataError(
                    f"the responses of {site.name} are not finite on the calibration data: "
                    "check the model and that --preprocess is the one it was trained with"
                )
            parts[site.name].append(rows)
        progress("profile", b + 1, len(sampling.batches))
    return {site.name: Targets(np.concatenate(parts.pop(site.name)), counts[site.name]) for site in sites}


def _positions_per_sample(site: ConvSite, size: tuple[int, int], samples: int) -> int:
    wanted = min(max(ROWS_PER_FILTER * len(site.kernel), FEWEST_ROWS), MOST_ROWS)
    return max(1, min(size[0] * size[1], -(-wanted // samples)))
