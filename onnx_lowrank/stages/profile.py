"""What the original network answers at every site on the calibration samples.

One pass over the samples serves all sites: each batch runs once, and only sampled rows are kept, never whole
activations.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.positions import gather_patches, gather_points
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.kind import PatchMoments, Preparation
from onnx_lowrank.factorise.forms.spatial import ColumnMoments
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.session import Opener

Array = NDArray[Any]

ROWS_PER_FILTER, FEWEST_ROWS, MOST_ROWS = 50, 25_000, 40_000
"""How many rows a layer should have: many times its unknowns per response, within reason. A fifth more make VGG-16's
last layers about 1 % better, in a fifth more time of solving."""

SMALL_KERNEL, FEWEST_ROWS_OF_SMALL = 1_000_000, 30_000
"""Weights below which solving takes little time, and the fewest rows of such a layer."""

COLUMN_SAMPLES, COLUMN_PATCHES = 40, 4_000
"""From how many samples and patches the covariance of a site's columns is estimated; a patch holds several columns."""

LARGEST = 1e15
"""Responses beyond this, and those that are not a number, overflow single precision when they are squared and added."""


@dataclass(frozen=True)
class Targets:
    """What the original answers at one site, before the activation.

    Attributes
    ----------
    rows
        [n, d], float32, of the responses, or of the sums where a shortcut joins; the batches in order, of each its
        samples in order, of each its positions.
    per_sample
        The number of positions in every sample's output.
    moments
        The statistics of the patches that every group reads, by the class of the preparation that asked for them.
    responses
        [d, d], the covariance of the responses alone where the rows are sums; else None.
    """

    rows: Array
    per_sample: int
    moments: Mapping[type[Preparation], tuple[PatchMoments, ...]] = field(default_factory=dict)
    responses: Array | None = None


def collect_targets(
    graph: Network,
    sites: Sequence[ConvSite],
    needed: Mapping[str, tuple[type[Preparation], ...]],
    sizes: Mapping[str, tuple[int, ...]],
    memory: int,
    sampling: Sampling,
    open_session: Opener,
    progress: Progress,
    linears: Sequence[DenseLayer] = (),
) -> dict[str, Targets]:
    """The one pass of the original network: what is sampled at all sites, by site name.

    Parameters
    ----------
    graph, sites
        The original network and what will be solved.
    needed
        By site name, the preparations for which patches are sampled in the first few batches.
    sizes
        Of the output along the spatial axes, by site name.
    memory
        Bytes that all rows together may take; where they would take more, fewer positions are sampled.
    sampling
        The samples; ``open_session`` opens the network, ``progress`` hears of every batch.
    linears
        Fully connected layers, of which all responses are kept; those that do not have one finite row of every sample
        are left out.

    Raises
    ------
    DataError
        Where a response is not finite, or too large to be squared.
    """
    wanted = [site.target for site in sites] + [site.output for site in sites if site.join]
    wanted += [site.target for site in linears]
    model_inputs = {tensor.name for tensor in graph.inputs}
    inputs = list(dict.fromkeys(s.input for s in sites if needed[s.name] and s.input not in model_inputs))
    session = open_session(whole(graph, wanted), "the model")
    wider = open_session(whole(graph, [*wanted, *inputs]), "the model") if inputs else session
    counts = positions_per_sample(sites, sizes, sampling.samples, memory)
    rows = {s.name: np.empty((counts[s.name] * sampling.samples, len(s.kernel)), np.float32) for s in sites}
    filled = dict.fromkeys(rows, 0)
    moments = {
        site.name: {kind: tuple(kind.moments() for _ in range(site.group)) for kind in needed[site.name]}
        for site in sites
    }
    alone: dict[str, ColumnMoments] = {}
    responses_of: dict[str, list[Array]] = {site.name: [] for site in linears}
    first = min(len(sampling.batches), -(-COLUMN_SAMPLES // len(sampling.batches[0])))
    progress("profile", 0, len(sampling.batches))
    for b, batch in enumerate(sampling.batches):
        feeds = sampling.source.feeds(batch)
        outputs = feeds | (wider if b < first else session)(feeds)
        for site in sites:
            y, name = outputs[site.target], site.name
            if site.join:
                y = site.join.as_response(y)
            size = y.shape[2:]
            where = sampling.positions(name, b, size, counts[name])
            sampled = gather_points(y, where)
            _check_finite(name, sampled)
            rows[name][filled[name] : filled[name] + len(sampled)] = sampled
            filled[name] += len(sampled)
            if site.join:
                # Only their covariance is needed, which takes no room: a response counts as a column of its own.
                responses = gather_points(outputs[site.output], where)
                alone.setdefault(name, ColumnMoments()).add(responses[:, :, None, None])
            if b < first and needed[name]:
                some = max(1, min(counts[name], -(-COLUMN_PATCHES // (first * len(batch)))))
                patches = site_patches(site, outputs[site.input], sampling.positions(name, b, size, some))
                for collected in moments[name].values():
                    for group, part in zip(collected, patches, strict=True):
                        group.add(part)
        for linear in linears:
            y = outputs[linear.target]
            if y.shape != (len(batch), len(linear.bias)) or not float(np.abs(y).max(initial=0)) < LARGEST:
                responses_of.pop(linear.name, None)
            elif linear.name in responses_of:
                responses_of[linear.name].append(y.astype(np.float32, copy=False))
        progress("profile", b + 1, len(sampling.batches))
    lone = {name: own.covariance for name, own in alone.items()}
    return {
        name: Targets(values[: filled[name]], counts[name], moments[name], lone.get(name))
        for name, values in rows.items()
    } | {name: Targets(np.concatenate(parts), 1) for name, parts in responses_of.items()}


def positions_per_sample(
    sites: Sequence[ConvSite], sizes: Mapping[str, tuple[int, ...]], samples: int, memory: int
) -> dict[str, int]:
    """How many positions of every sample are looked at, by site name, so that all rows fit in ``memory`` bytes."""
    counts = {}
    for site in sites:
        fewest = FEWEST_ROWS_OF_SMALL if site.kernel.size < SMALL_KERNEL else FEWEST_ROWS
        wanted = min(max(ROWS_PER_FILTER * len(site.kernel), fewest), MOST_ROWS)
        counts[site.name] = max(1, min(math.prod(sizes[site.name]), -(-wanted // samples)))
    needed = sum(4 * counts[site.name] * samples * len(site.kernel) for site in sites)
    share = min(1.0, memory / needed)
    return {name: max(1, int(count * share)) for name, count in counts.items()}


def _check_finite(name: str, rows: Array) -> None:
    largest = float(np.abs(rows).max(initial=0))
    if not largest < LARGEST:
        raise DataError(
            f"the responses of {name} reach {largest:g} on the calibration data: "
            "check the model and that --preprocess is the one it was trained with"
        )


def site_patches(site: ConvSite, x: Array, where: NDArray[np.int64]) -> list[Array]:
    """The patches that every group reads, [n, c of a group, *sizes], of x [N, c, ...] at some places of the output."""
    pads = site.padding(x.shape[2:])
    patches = gather_patches(x, where, site.kernel.shape[2:], site.strides, site.dilations, pads)
    return np.split(patches, site.group, axis=1)
