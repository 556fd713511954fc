"""The stage that takes the channels out of the network that the plan has no width for.

The network that is walked through is then the narrow one: layers that make fewer channels keep their filters for those
that stay, and layers that read fewer keep the columns. Their weights are those of the original until the walk fits each
of them again to the original's responses.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.macs import measure_macs
from onnx_lowrank.calibration.shard import ProfileQuestion
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.errors import DataError
from onnx_lowrank.factorise.forms.preparation import PreparedKernel
from onnx_lowrank.graph.edit.narrow import narrow_together
from onnx_lowrank.graph.find.families import families
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import find_sites
from onnx_lowrank.graph.gather import gathered
from onnx_lowrank.graph.network import Network
from onnx_lowrank.stages.count import Counted, conv_shapes
from onnx_lowrank.stages.planned import planned_macs
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.profile import PATCH_SAMPLES, Profiled, Targets, empty_moments
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.widths import Widths

Array = NDArray[Any]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Kept:
    """The channels that stay.

    Attributes
    ----------
    made
        The filters that stay, by the output of every layer that makes or carries narrowed channels.
    read
        The channels of the input that stay, by the output of every layer that reads narrowed ones.
    """

    made: Mapping[str, Indices]
    read: Mapping[str, Indices]


def narrow(run: Run, prepared: Prepared, stack: contextlib.ExitStack) -> Prepared:
    """Return what the stages before made of the network, for the narrow network; the same where all channels stay.

    Parameters
    ----------
    run
        The surroundings.
    prepared
        The results for the original network, with the plan.
    stack
        Closes the shard that holds the samples in front of the narrow network.

    Raises
    ------
    DataError
        If the user's plan names channels that cannot be narrowed, or a width that they cannot have.
    """
    plan = prepared.planned.plan
    if not plan.widths:
        return prepared
    with run.times.stage("plan"):
        kept = kept_channels(prepared)
        network = prepared.read.network.copy()
        chosen = [prepared.widths[width.name].channels for width in plan.widths]
        choices = [(channels.makers, kept.made[channels.makers[0]].tolist()) for channels in chosen]
        narrow_together(network, choices, unseen=False)
        counted = _counted(run, prepared, network)
        fitted = replace(plan, sites=plan.fitted(counted.shapes, forms=run.forms).sites)
        planned = replace(prepared.planned, plan=fitted, macs=planned_macs(fitted, counted.shapes, run.forms))
        profiled = _profiled(run, prepared, counted, kept)
        path = gathered(network, counted.families)
    opened = open_shards(path, prepared.sampled.sampling, run.open_session, counted.macs.all, run.shards)
    return replace(
        prepared,
        read=replace(prepared.read, network=network),
        counted=counted,
        profiled=profiled,
        planned=planned,
        wide=prepared.counted,
        wide_path=prepared.path,
        stay=kept.made,
        path=path,
        shard=stack.enter_context(opened),
    )


def kept_channels(prepared: Prepared) -> Kept:
    """Return the channels that stay where a plan has fewer of them.

    Raises
    ------
    DataError
        If the plan names channels that cannot be narrowed, or a width that they cannot have.
    """
    made: dict[str, Indices] = {}
    read: dict[str, Indices] = {}
    inputs = {layer.output: layer.shape[1] for layer in prepared.read.layers.dense}
    inputs |= {site.output: site.kernel.shape[1] for site in prepared.counted.sites}
    for width in prepared.planned.plan.widths:
        check_width(prepared.widths, width.name, width.width)
        one = prepared.widths[width.name]
        count = one.channels.count
        stay = one.curve.sweep.kept(count, width.width)
        made |= dict.fromkeys((*one.channels.makers, *one.channels.carriers), stay)
        gone = np.setdiff1d(np.arange(count), stay)
        for reader in one.channels.readers:
            columns = reader.first + (gone[:, None] * reader.repeat + np.arange(reader.repeat)).ravel()
            left = read.get(reader.output, np.arange(inputs[reader.output]))
            read[reader.output] = np.setdiff1d(left, columns)
    return Kept(made, read)


def check_width(widths: Widths, name: str, width: int) -> None:
    """Refuse a width that channels cannot have.

    Raises
    ------
    DataError
        If no channels of this name can be narrowed, or not to this width.
    """
    if name not in widths.names:
        raise DataError(f"the plan has a width for {name!r}, whose channels cannot be removed in this model")
    curve = widths[name].curve
    if not curve.widths[0] <= width <= curve.widths[-1]:
        raise DataError(
            f"the plan has width {width} for {name!r}; it can be {curve.widths[0]} to {curve.widths[-1]} channels"
        )


def _counted(run: Run, prepared: Prepared, network: Network) -> Counted:
    """Return the layers of the narrow network that belong to those of the original, with their costs."""
    options, before = run.options, prepared.counted
    found = find_sites(network, gemm=True)
    layers = {site.output: site for site in (*found.sites, *found.first)}

    def narrowed(site: ConvSite) -> ConvSite:
        own = layers[site.output]
        join = site.join and own.join
        return replace(own, name=site.name, join=join, activation=site.activation and own.activation)

    sites = tuple(narrowed(site) for site in before.sites)
    names = {layer.output: layer.name for layer in before.dense}
    dense = tuple(replace(layer, name=names[layer.output]) for layer in found.dense if layer.output in names)
    shortcuts = [site.join.shortcut for site in sites if site.join]
    sampling = prepared.sampled.sampling
    macs = measure_macs(network, sampling, run.open_session, shortcuts, gemm=options.include_gemm)
    return replace(
        before,
        macs=macs,
        sites=sites,
        shapes=conv_shapes(sites, macs),
        dense=dense,
        families=families(network, sites),
    )


def _profiled(run: Run, prepared: Prepared, counted: Counted, kept: Kept) -> Profiled:
    """Return the profile of the original without what belongs to channels that go."""
    profiled, targets = prepared.profiled, dict(prepared.profiled.targets)
    made_by = {site.name: site.output for site in prepared.counted.sites}
    made_by |= {layer.name: layer.output for layer in prepared.counted.dense}
    for name, output in made_by.items():
        if output in kept.made and name in targets:
            targets[name] = _of_channels(targets[name], kept.made[output])
    return Profiled(targets, {**profiled.kernels, **_kernels(run, prepared, counted, kept)})


def _of_channels(targets: Targets, stay: Indices) -> Targets:
    """Return the targets of some filters of a layer alone."""
    covariance = None if targets.responses is None else targets.responses[np.ix_(stay, stay)]
    return replace(targets, rows=np.ascontiguousarray(targets.rows[:, stay]), responses=covariance)


def _kernels(run: Run, prepared: Prepared, counted: Counted, kept: Kept) -> dict[str, tuple[PreparedKernel, ...]]:
    """Return what the planned forms derive from the kernels that are narrow, by site name.

    The statistics are those of the patches that the original network sees, as far as their channels stay.
    """
    plan, originals = prepared.planned.plan, {site.name: site for site in prepared.counted.sites}
    changed: dict[str, tuple[PreparedKernel, ...]] = {}
    collected = {}
    for site in counted.sites:
        if site.output not in kept.made and site.output not in kept.read:
            continue
        form = plan[site.name].form
        preparation = run.forms[form].preparation if form else None
        if site.group > 1:
            old = prepared.profiled.kernels[site.name]
            changed[site.name] = tuple(old[index] for index in kept.made[site.output])
        elif preparation is None:
            changed[site.name] = ({},)
        else:
            collected[site.name] = empty_moments(site, [preparation])
    if collected:
        sampling = prepared.sampled.sampling
        question = ProfileQuestion(
            sites=tuple(originals[name] for name in collected),
            dense=(),
            per_sample={name: prepared.profiled.targets[name].per_sample for name in collected},
            patches=frozenset(collected),
            patch_batches=sampling.first_batches(PATCH_SAMPLES),
        )
        for sample in prepared.shard.profile(question):
            if sample.batch >= question.patch_batches:
                break
            stay = kept.read.get(originals[sample.name].output)
            (patches,) = sample.patches
            for (own,) in collected[sample.name].values():
                own.add(patches if stay is None else np.ascontiguousarray(patches[:, stay]))
    narrowed = {site.name: site for site in counted.sites}
    for name, moments in collected.items():
        kernel = narrowed[name].kernel
        changed[name] = ({kind: kind.of(kernel, own) for kind, (own,) in moments.items()},)
    return changed
