"""The stage that profiles the original network on the calibration samples.

One pass over the samples serves all sites. Each batch runs once, and only sampled rows are kept, never whole
activations. The forms then derive from the kernels, and from statistics of the patches that the kernels see, what they
need before any rank is chosen.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.shard import LayerSample, ProfileQuestion, Shard
from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import affordable, preparations, worthwhile
from onnx_lowrank.factorise.forms.preparation import PatchMoments, Preparation, PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.factorise.moments import RowCovariance
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.positions import positions_per_sample
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.room import left_out, statistics_room
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled

Array = NDArray[Any]

PATCH_SAMPLES = 40
"""The number of samples from which the statistics of a site's patches are estimated."""

LARGEST = 1e15
"""Larger responses, and those that are not a number, overflow single precision when they are squared and added up."""

Needed: TypeAlias = Mapping[str, tuple[type[Preparation], ...]]
"""The classes of preparation that each site needs, by site name."""

Moments: TypeAlias = Mapping[type[Preparation], tuple[PatchMoments, ...]]
"""Statistics of the patches that every group of a site reads, by the class of preparation that they are for."""


@dataclass(frozen=True)
class Targets:
    """The responses of the original at one site, before the activation.

    Attributes
    ----------
    rows
        The responses, or their sums with the shortcut where one joins, [n, d], float32. The batches come in their
        order, the samples in that of the batch, and the positions in that of the sample.
    per_sample
        The number of positions in the output of every sample, at most.
    positions
        The number of those that there are, [number of samples], which is lower in the output of a small sample.
    responses
        The covariance of the responses without the shortcut where one joins, [d, d]; else None.
    """

    rows: Array
    per_sample: int
    positions: NDArray[np.int64]
    responses: Array | None = None

    def of_first(self, samples: int) -> "Targets":
        """Return the rows of the first samples alone; the covariance stays that of all."""
        positions = self.positions[:samples]
        return replace(self, rows=self.rows[: int(positions.sum())], positions=positions)


@dataclass(frozen=True)
class Profiled:
    """The samples of the original network, and what the forms have derived from its kernels.

    Attributes
    ----------
    targets
        The responses by the name of the site or the fully connected layer; nothing where no data are looked at.
    kernels
        The preparations of the kernel of every group, for the forms in question, by site name.
    """

    targets: Mapping[str, Targets]
    kernels: Mapping[str, tuple[PreparedKernel, ...]]


def profile(run: Run, sampled: Sampled, counted: Counted, reach: Reach, shard: Shard) -> Profiled:
    """Sample the original network, and prepare the kernels for the choice of forms and ranks.

    Raises
    ------
    DataError
        If a response is not finite, or too large to be squared.
    """
    user_plan, memory = reach.user_plan, run.options.memory
    kinds = run.kinds if user_plan is None else run.forms
    needed = needed_preparations(counted.shapes, kinds, user_plan, statistics_room(memory))
    needed = needed_together(counted.families, needed)
    for line in left_out(counted.shapes, kinds, memory) if user_plan is None else ():
        run.warn(line)
    targets: Mapping[str, Targets] = {}
    moments: Mapping[str, Moments] = {}
    if run.options.solver != "weights":
        with run.times.stage("profile"):
            targets, moments = collect_targets(run, sampled, counted, needed, shard)
            if not sampled.source.synthetic and (complaint := sampled.watched.complaint()):
                run.warn(complaint)
    with run.stage("plan"):
        kernels = prepare_kernels(counted.families, needed, moments)
    return Profiled(targets, kernels)


def needed_preparations(
    shapes: Mapping[str, ConvShape], kinds: FormTable, plan: Plan | None, room: int = sys.maxsize
) -> dict[str, tuple[type[Preparation], ...]]:
    """Return the preparations that each site needs, by name.

    Without a plan there is none for a kind that no planner would choose, because it saves nothing or its statistics do
    not fit in ``room`` bytes.

    Parameters
    ----------
    shapes
        The geometry of every site, by name.
    kinds
        The forms among which the planner chooses, or those that the plan names.
    plan
        The plan that is replayed; None where one is searched.
    room
        The number of bytes that the statistics of one site may take.
    """
    wanted = {name: worthwhile(affordable(kinds, shape, room), shape) for name, shape in shapes.items()}
    if plan:
        wanted = {site.name: (kinds[site.form],) if site.form else () for site in plan.sites}
    return {name: preparations(wanted[name], shape) for name, shape in shapes.items()}


def needed_together(families: Iterable[Family], needed: Needed) -> dict[str, tuple[type[Preparation], ...]]:
    """Return the preparations of each site, by name, where sites of one weight need what any of them needs."""
    together: dict[str, tuple[type[Preparation], ...]] = {}
    for family in families:
        kinds = tuple(dict.fromkeys(kind for name in family.names for kind in needed[name]))
        together |= dict.fromkeys(family.names, kinds)
    return together


def prepare_kernels(
    families: Iterable[Family], needed: Needed, moments: Mapping[str, Moments]
) -> dict[str, tuple[PreparedKernel, ...]]:
    """Return the preparations of the kernel of every group, by site name; sites of one weight share them.

    Where a site has no statistics of its patches, its weights alone have to do.
    """

    def prepare(site: ConvSite) -> tuple[PreparedKernel, ...]:
        own = moments.get(site.name)
        return tuple(
            {kind: kind.of(kernel, own[kind][group] if own else None) for kind in needed[site.name]}
            for group, kernel in enumerate(site.kernels)
        )

    return {name: prepared for family in families for prepared in [prepare(family.members[0])] for name in family.names}


def collect_targets(
    run: Run, sampled: Sampled, counted: Counted, needed: Needed, shard: Shard
) -> tuple[dict[str, Targets], dict[str, Moments]]:
    """Run the original network once, and return the responses of all layers and the statistics of their patches.

    Fully connected layers that do not make one finite row of every sample are left out.

    Raises
    ------
    DataError
        If a response is not finite, or too large to be squared.
    """
    sampling, sites = sampled.sampling, counted.sites
    total = len(sampling.batches)
    sizes = {site.name: counted.macs.shapes[site.output][2:] for site in sites}
    rows_memory = run.options.memory // 2  # the rest is for the activations between two sites
    per_sample = positions_per_sample(counted.families, sizes, sampling.amounts(), rows_memory)
    question = ProfileQuestion(
        sites=sites,
        dense=tuple(layer for layer in counted.dense if layer.name not in sizes),
        per_sample=per_sample,
        patches=frozenset(name for name, kinds in needed.items() if kinds),
        patch_batches=sampling.first_batches(PATCH_SAMPLES),
    )
    at_sites = {}
    for family in counted.families:
        moments = empty_moments(family.members[0], needed[family.name])
        for site in family.members:
            at_sites[site.name] = _SiteSamples(site, moments, per_sample[site.name] * sampling.samples)
    at_dense: dict[str, list[Array]] = {layer.name: [] for layer in question.dense}
    finished = 0
    run.progress("profile", finished, total)
    for sample in shard.profile(question):
        if sample.batch > finished:
            finished = sample.batch
            run.progress("profile", finished, total)
        if sample.name in at_sites:
            at_sites[sample.name].add(sample, len(sampling.batches[sample.batch]))
        elif _largest(sample.rows) < LARGEST:
            at_dense[sample.name].append(sample.rows.astype(np.float32, copy=False))
    run.progress("profile", total, total)
    targets = {name: samples.targets(per_sample[name]) for name, samples in at_sites.items()}
    complete = {name: parts for name, parts in at_dense.items() if len(parts) == total}
    ones = np.ones(sampling.samples, np.int64)
    targets |= {name: Targets(np.concatenate(parts), 1, ones) for name, parts in complete.items()}
    return targets, {name: samples.moments for name, samples in at_sites.items()}


def empty_moments(site: ConvSite, kinds: Iterable[type[Preparation]]) -> Moments:
    """Return the statistics that classes of preparation need of the patches of a site, without any patch so far."""
    return {kind: tuple(kind.moments() for _ in range(site.group)) for kind in kinds}


class _SiteSamples:
    """The samples of one site, accumulated over the batches.

    Parameters
    ----------
    site
        The site.
    moments
        The statistics of the patches, to which other sites of the same weight add theirs.
    most
        The largest number of rows.
    """

    def __init__(self, site: ConvSite, moments: Moments, most: int) -> None:
        self._rows, self._filled = np.empty((most, len(site.kernel)), np.float32), 0
        self._positions: list[int] = []
        self._responses = RowCovariance() if site.join else None
        self.moments = moments

    def add(self, sample: LayerSample, samples: int) -> None:
        """Accumulate the rows of one batch, which has this number of samples.

        Raises
        ------
        DataError
            If a response is not finite, or too large to be squared.
        """
        largest = _largest(sample.rows)
        if not largest < LARGEST:
            raise DataError(
                f"the responses of {sample.name} reach {largest:g} on the calibration data: "
                "check the model and that --preprocess is the one it was trained with"
            )
        self._rows[self._filled : self._filled + len(sample.rows)] = sample.rows
        self._filled += len(sample.rows)
        self._positions += [len(sample.rows) // samples] * samples
        if self._responses is not None and sample.responses is not None:
            self._responses.add(sample.responses)
        for moments in self.moments.values() if sample.patches else ():
            for group, patches in zip(moments, sample.patches, strict=True):
                group.add(patches)

    def targets(self, per_sample: int) -> Targets:
        """Return the responses of all batches up to now."""
        covariance = None if self._responses is None else self._responses.covariance
        return Targets(self._rows[: self._filled], per_sample, np.array(self._positions), covariance)


def _largest(rows: Array) -> float:
    return float(np.abs(rows).max(initial=0))
