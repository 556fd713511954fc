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

from onnx_lowrank.calibration.positions import gather_patches, gather_points
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.spatial import column_covariance
from onnx_lowrank.graph.macs import counted_nodes, macs_by_output
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.graph.sites import ConvSite
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime import Opener

Array = NDArray[Any]

ROWS_PER_FILTER, FEWEST_ROWS, MOST_ROWS = 60, 10_000, 45_000
"""How many rows a regression should have: several times its unknowns per response, within reason."""

COLUMN_SAMPLES, COLUMN_PATCHES = 40, 4_000
"""From how many samples and patches the covariance of a site's columns is estimated; a patch holds several columns."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one sample by the output tensor of the node: of all counted nodes, and of the Convs.

    ``shapes`` are those of all tensors that a counted node reads or makes, for one batch.
    """

    all: dict[str, int]
    conv: dict[str, int]
    shapes: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Targets:
    """The original's responses at one site, before the activation.

    Attributes
    ----------
    rows
        [n, d], float32; the batches in order, of each its samples in order, of each its positions.
    per_sample
        The number of positions in every sample's output.
    covariance
        [c·k, c·k] of the columns of the patches that the site reads; None where no spatial cut was asked for.
    """

    rows: Array
    per_sample: int
    covariance: Array | None


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
        shapes,
    )


def collect_targets(
    graph: gs.Graph,
    sites: Sequence[ConvSite],
    to_cut: frozenset[str],
    sampling: Sampling,
    open_session: Opener,
    progress: Progress,
) -> dict[str, Targets]:
    """The one pass of the original network: the sampled responses of all sites, by site name.

    The sites named in ``to_cut`` have the patches of the first few batches sampled too, for their covariance.

    Raises
    ------
    DataError
        Where a response is not finite.
    """
    wanted = [site.output for site in sites]
    model_inputs = {tensor.name for tensor in graph.inputs}
    inputs = list(dict.fromkeys(s.input for s in sites if s.name in to_cut and s.input not in model_inputs))
    session = open_session(whole(graph, wanted).SerializeToString(), "the model")
    wider = open_session(whole(graph, [*wanted, *inputs]).SerializeToString(), "the model") if inputs else session
    first = _batches_for_columns(sampling) if to_cut else 0
    parts: dict[str, list[Array]] = {site.name: [] for site in sites}
    patches: dict[str, list[Array]] = {name: [] for name in to_cut}
    covariances: dict[str, Array] = {}
    counts: dict[str, int] = {}
    progress("profile", 0, len(sampling.batches))
    for b, batch in enumerate(sampling.batches):
        feeds = sampling.source.feeds(batch)
        outputs = feeds | (wider if b < first else session)(feeds)
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
            if b < first and site.name in to_cut:
                some = max(1, min(count, -(-COLUMN_PATCHES // (first * len(batch)))))
                x, where = outputs[site.input], sampling.positions(site.name, b, size, some)
                patches[site.name].append(site_patches(site, x, where))
                if b == first - 1:
                    covariances[site.name] = column_covariance(np.concatenate(patches.pop(site.name)))
        progress("profile", b + 1, len(sampling.batches))
    return {
        site.name: Targets(np.concatenate(parts.pop(site.name)), counts[site.name], covariances.get(site.name))
        for site in sites
    }


def site_patches(site: ConvSite, x: Array, where: tuple[Array, Array]) -> Array:
    """The patches [n, c, k, l] that a site reads of its input x [N, c, H, W] at output pixels (rows, columns)."""
    pads = site.padding(x.shape[2], x.shape[3])
    return gather_patches(x, *where, site.kernel.shape[2:], site.strides, site.dilations, pads)


def _batches_for_columns(sampling: Sampling) -> int:
    size = len(sampling.batches[0])
    return min(len(sampling.batches), -(-COLUMN_SAMPLES // size))


def _positions_per_sample(site: ConvSite, size: tuple[int, int], samples: int) -> int:
    wanted = min(max(ROWS_PER_FILTER * len(site.kernel), FEWEST_ROWS), MOST_ROWS)
    return max(1, min(size[0] * size[1], -(-wanted // samples)))
