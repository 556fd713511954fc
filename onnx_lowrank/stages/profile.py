"""Profile: what the original network answers at every site on the calibration samples.

One pass over the samples serves all sites: each batch runs once, and only sampled rows are kept, never whole
activations. What the forms derive from the kernels before any rank is chosen is derived here, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.shard import LayerSample, ProfileQuestion, Shard
from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import preparations
from onnx_lowrank.factorise.forms.preparation import PatchMoments, Preparation, PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.factorise.moments import RowCovariance
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.runtime import blas_threads
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled

Array = NDArray[Any]

ROWS_PER_FILTER, FEWEST_ROWS, MOST_ROWS = 50, 25_000, 40_000
"""How many rows a layer should have: many times its unknowns per response, within reason. A fifth more make VGG-16's
last layers about 1 % better, in a fifth more time of solving."""

SMALL_KERNEL, FEWEST_ROWS_OF_SMALL = 1_000_000, 30_000
"""Weights below which solving takes little time, and the fewest rows of such a layer."""

COLUMN_SAMPLES = 40
"""The number of samples from which the statistics of a site's patches are estimated."""

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


@dataclass(frozen=True)
class Profiled:
    """What the original network has shown.

    Attributes
    ----------
    targets
        What it answers, by the name of the site or the fully connected layer; nothing where no data is looked at.
    kernels
        What the forms in question have derived from the kernel of every group, by site name.
    """

    targets: Mapping[str, Targets]
    kernels: Mapping[str, tuple[PreparedKernel, ...]]


@blas_threads.one_for_scipy()
def profile(run: Run, sampled: Sampled, counted: Counted, reach: Reach, shard: Shard) -> Profiled:
    """Sample the original network, and derive from the kernels what the forms need.

    Raises
    ------
    DataError
        Where a response is not finite, or too large to be squared.
    """
    needed = needed_preparations(counted.shapes, run.kinds if reach.given is None else run.forms, reach.given)
    targets: dict[str, Targets] = {}
    with run.times.stage("profile"):
        if run.options.solver == "weights":
            run.progress("profile", 1, 1)
        else:
            targets = collect_targets(run, sampled, counted, needed, shard)
    with run.times.stage("plan"):
        run.progress("plan", 0, 1)
        return Profiled(targets, prepare_kernels(counted.sites, needed, targets))


def needed_preparations(
    shapes: Mapping[str, ConvShape], kinds: FormTable, plan: Plan | None
) -> dict[str, tuple[type[Preparation], ...]]:
    """What has to be derived from the kernels, by site name, to choose among the kinds or to replay a given plan."""
    wanted = {name: tuple(kinds) for name in shapes}
    if plan:
        wanted = {site.name: (kinds[site.form],) if site.form else () for site in plan.sites}
    return {name: preparations(wanted[name], shape) for name, shape in shapes.items()}


def prepare_kernels(
    sites: Sequence[ConvSite], needed: Mapping[str, tuple[type[Preparation], ...]], targets: Mapping[str, Targets]
) -> dict[str, tuple[PreparedKernel, ...]]:
    """What is derived from the kernel of every group, by site name.

    It comes from the weights alone where nothing was profiled.
    """

    def prepared(site: ConvSite) -> tuple[PreparedKernel, ...]:
        target = targets.get(site.name)
        return tuple(
            {kind: kind.of(kernel, target.moments[kind][number] if target else None) for kind in needed[site.name]}
            for number, kernel in enumerate(site.kernels)
        )

    return {site.name: prepared(site) for site in sites}


def collect_targets(
    run: Run,
    sampled: Sampled,
    counted: Counted,
    needed: Mapping[str, tuple[type[Preparation], ...]],
    shard: Shard,
) -> dict[str, Targets]:
    """The one pass of the original network: what is sampled of all layers, by name.

    Fully connected layers that do not make one finite row of every sample are left out.

    Raises
    ------
    DataError
        Where a response is not finite, or too large to be squared.
    """
    sampling, sites = sampled.sampling, counted.sites
    sizes = {site.name: counted.macs.shapes[site.output][2:] for site in sites}
    rows_memory = run.options.memory // 2  # the rest is for the activations between two sites
    per_sample = positions_per_sample(sites, sizes, sampling.samples, rows_memory)
    dense = tuple(layer for layer in counted.dense if layer.name not in sizes)
    patch_batches = min(len(sampling.batches), -(-COLUMN_SAMPLES // len(sampling.batches[0])))
    patches = frozenset(name for name, kinds in needed.items() if kinds)
    collectors = {
        site.name: _Collector(site, needed[site.name], per_sample[site.name], sampling.samples) for site in sites
    }
    responses: dict[str, list[Array] | None] = {layer.name: [] for layer in dense}
    run.progress("profile", 0, len(sampling.batches))
    for sample in shard.profile(ProfileQuestion(sites, dense, per_sample, patches, patch_batches)):
        run.progress("profile", sample.batch, len(sampling.batches))
        if sample.name in collectors:
            collectors[sample.name].add(sample)
        elif not float(np.abs(sample.rows).max(initial=0)) < LARGEST:
            responses[sample.name] = None
        elif (collected := responses[sample.name]) is not None:
            collected.append(sample.rows.astype(np.float32, copy=False))
    run.progress("profile", len(sampling.batches), len(sampling.batches))
    targets = {name: collector.targets for name, collector in collectors.items()}
    for name, parts in responses.items():
        if parts is not None and len(parts) == len(sampling.batches):
            targets[name] = Targets(np.concatenate(parts), 1)
    return targets


class _Collector:
    """What is sampled of one site, on its way."""

    def __init__(self, site: ConvSite, kinds: Sequence[type[Preparation]], per_sample: int, samples: int) -> None:
        self._rows = np.empty((per_sample * samples, len(site.kernel)), np.float32)
        self._filled, self._per_sample = 0, per_sample
        self._moments = {kind: tuple(kind.moments() for _ in range(site.group)) for kind in kinds}
        self._responses = RowCovariance() if site.join else None

    def add(self, sample: LayerSample) -> None:
        """Count in what a batch shows.

        Raises
        ------
        DataError
            Where a response is not finite, or too large to be squared.
        """
        largest = float(np.abs(sample.rows).max(initial=0))
        if not largest < LARGEST:
            raise DataError(
                f"the responses of {sample.name} reach {largest:g} on the calibration data: "
                "check the model and that --preprocess is the one it was trained with"
            )
        self._rows[self._filled : self._filled + len(sample.rows)] = sample.rows
        self._filled += len(sample.rows)
        if self._responses is not None and sample.responses is not None:
            self._responses.add(sample.responses)
        for moments in self._moments.values() if sample.patches else ():
            for group, patches in zip(moments, sample.patches, strict=True):
                group.add(patches)

    @property
    def targets(self) -> Targets:
        """Everything so far."""
        covariance = None if self._responses is None else self._responses.covariance
        return Targets(self._rows[: self._filled], self._per_sample, self._moments, covariance)


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
