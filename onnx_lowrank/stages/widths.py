"""The stage that measures how the error rises as channels become fewer.

Between a layer that makes channels and those that read them, any of the channels can go. A pass over some samples
collects the covariance of what the readers see, and one sweep of elimination gives the error at every width (see
``factorise/elimination.py``).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.shard import LayerSample, ProfileQuestion, Shard
from onnx_lowrank.factorise.factors import Factorization, Link
from onnx_lowrank.factorise.read_columns import ReadMoments
from onnx_lowrank.factorise.width_curve import Reading, WidthCurve, fitted, width_curve
from onnx_lowrank.graph.edit.rewrite import Replacement
from onnx_lowrank.graph.find.hidden_channels import HiddenChannels, Reader
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.hidden_sets import HiddenSet, solved_layers
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled

Array = NDArray[Any]

SAMPLES = 200
"""The number of samples from which the covariances are estimated."""

PATCHES = 10_000
"""About how many patches of a layer that reads channels are taken."""

JUDGE_EVERY = 3
"""One row in so many judges the errors where no batch does."""

PROBED = 0.75
"""The share of the channels that are left at the width at which a set is probed."""


@dataclass(frozen=True)
class Probe:
    """The layers that read some channels, fitted to fewer of them, to see what this does to the outputs.

    Attributes
    ----------
    width
        The number of channels that stay.
    readers
        The layers with their new weights, which are zero for the channels that go.
    """

    width: int
    readers: tuple[Replacement, ...]


@dataclass(frozen=True)
class WidthSet:
    """A set of channels of which some may go.

    Attributes
    ----------
    hidden
        Where they are made and read.
    curve
        The error of the readers against the width.
    probe
        The readers at one width.
    """

    hidden: HiddenSet
    curve: WidthCurve
    probe: Probe

    @property
    def name(self) -> str:
        """The name of the layer that makes the channels."""
        return self.hidden.name

    @property
    def channels(self) -> HiddenChannels:
        """Where the channels are made and read."""
        return self.hidden.channels


@dataclass(frozen=True)
class Widths:
    """What the stage found.

    Attributes
    ----------
    sets
        The sets of channels, in the order of the network.
    """

    sets: tuple[WidthSet, ...] = ()

    def __getitem__(self, name: str) -> WidthSet:
        """Return the set of this name."""
        return next(one for one in self.sets if one.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sets."""
        return tuple(one.name for one in self.sets)


NO_WIDTHS = Widths()
"""Where all channels stay."""


def measure_widths(
    run: Run, sampled: Sampled, counted: Counted, reach: Reach, shard: Shard, profiled: Profiled
) -> Widths:
    """Measure the error of every set of channels against its width."""
    hidden = reach.hidden
    if reach.user_plan is not None:
        wanted = {width.name for width in reach.user_plan.widths}
        hidden = tuple(one for one in hidden if one.name in wanted)
    if not hidden:
        return NO_WIDTHS
    with run.times.stage("widths"):
        layers = solved_layers(counted)
        outputs = {reader.output for one in hidden for reader in one.channels.readers}
        moments = _collect(run, sampled, shard, {output: layers[output] for output in layers if output in outputs})
        sets = []
        for number, one in enumerate(hidden):
            run.progress("widths", number, len(hidden))
            places = _by_layer(one.channels)
            readings = [_reading(own, one.count, layers, moments, profiled) for own in places]
            curve = width_curve(readings, one.widths)
            sets.append(WidthSet(one, curve, _probe(curve, [layers[own[0].output] for own in places], readings)))
        run.progress("widths", len(hidden), len(hidden))
    return Widths(tuple(sets))


def _collect(run: Run, sampled: Sampled, shard: Shard, layers: Mapping[str, ConvSite]) -> dict[str, ReadMoments]:
    """Return the statistics of what the layers read, by their outputs."""
    sampling, names = sampled.sampling, {site.name: output for output, site in layers.items()}
    moments = {
        output: ReadMoments(site.kernel.shape[1], int(np.prod(site.kernel.shape[2:])))
        for output, site in layers.items()
    }
    if not layers:
        return {}
    batches = sampling.first_batches(SAMPLES)
    samples = sum(len(batch) for batch in sampling.batches[:batches])
    question = ProfileQuestion(
        sites=tuple(layers.values()),
        dense=(),
        per_sample=dict.fromkeys(names, -(-PATCHES // samples)),
        patches=frozenset(names),
        patch_batches=batches,
        patches_per_site=PATCHES,
    )
    judges = sampling.judges[:batches]
    for sample in shard.profile(question):
        if sample.batch >= batches:
            break
        for patches, judging in _roles(sample, judges):
            moments[names[sample.name]].add(patches, judging=judging)
    return moments


def _roles(sample: LayerSample, judges: NDArray[np.bool_]) -> Iterator[tuple[Array, bool]]:
    """Divide the patches of a batch into those that solve and those that judge."""
    (patches,) = sample.patches
    if judges.any() and not judges.all():
        yield patches, bool(judges[sample.batch])
        return
    judging = np.arange(len(patches)) % JUDGE_EVERY == 0
    yield patches[judging], True
    yield patches[~judging], False


def _probe(curve: WidthCurve, layers: Sequence[ConvSite], readings: Sequence[Reading]) -> Probe:
    """Return the readers at the width that is next to ``PROBED``."""
    width = int(curve.widths[np.argmin(np.abs(curve.widths[:-1] - PROBED * curve.widths[-1]))])
    kept = curve.kept(width)

    def replacement(layer: ConvSite, reading: Reading) -> Replacement:
        weights, shift = fitted(reading, kept, curve.ridge)
        link = Link(weights.reshape(layer.kernel.shape).astype(np.float32), (True,) * (layer.kernel.ndim - 2))
        return Replacement(layer, Factorization((link,), layer.bias + shift))

    return Probe(width, tuple(map(replacement, layers, readings)))


def _by_layer(channels: HiddenChannels) -> list[list[Reader]]:
    """Return the places at which each layer reads the channels."""
    places: dict[str, list[Reader]] = {}
    for reader in channels.readers:
        places.setdefault(reader.output, []).append(reader)
    return list(places.values())


def _reading(
    places: Sequence[Reader],
    count: int,
    layers: Mapping[str, ConvSite],
    moments: Mapping[str, ReadMoments],
    profiled: Profiled,
) -> Reading:
    """Return what one layer reads of the channels, at all places."""
    output = places[0].output
    site = layers[output]
    channels = [reader.first + np.arange(count * reader.repeat).reshape(count, reader.repeat) for reader in places]
    target = profiled.targets[site.name].rows
    size = float(target.var(axis=0, dtype=np.float64).sum()) or 1.0
    return Reading(moments[output].of(site.kernel), np.concatenate(channels, axis=1), size)
