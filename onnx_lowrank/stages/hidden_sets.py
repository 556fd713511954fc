"""The sets of channels of which a plan may remove some, and the layers that see them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.rank_multiple import RankMultiple
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.find.hidden_channels import HiddenChannels, find_hidden_channels
from onnx_lowrank.graph.find.site import ConvSite, dense_site
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.plan.cost import lowest_macs
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.run import Run

FEWEST_CHANNELS = 16
"""A set of fewer channels is left alone: a handful less of them saves nothing."""

BLOCKS = (16, 8, 4)
"""The steps between widths. The first one of which a set has at least ``FEWEST_STEPS`` is taken."""

FEWEST_STEPS = 4

LEAST_SHARE = 0.25
"""The smallest width that is considered, as a share of all channels."""

MOST_WIDTHS = 16
"""The most widths that are considered for one set."""


@dataclass(frozen=True)
class HiddenSet:
    """A set of channels of which some may go.

    Attributes
    ----------
    name
        The name of the layer that makes them.
    channels
        Where they are made and read.
    widths
        The numbers of channels that may stay, ascending; the last one is all of them.
    """

    name: str
    channels: HiddenChannels
    widths: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of channels."""
        return self.channels.count


@dataclass(frozen=True)
class Seen:
    """The sets of channels that one layer sees.

    Attributes
    ----------
    reads
        For every set whose channels it reads, the number of channels of its input that belong to each of them.
    makes
        The set that its filters make.
    carries
        The set whose channels it takes one by one, as a depthwise convolution does.
    """

    reads: Mapping[str, int]
    makes: str | None
    carries: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all these sets."""
        return tuple(dict.fromkeys(filter(None, (*self.reads, self.makes, self.carries))))

    def share(self, counts: Mapping[str, int], widths: Mapping[str, int]) -> float:
        """Return the share of its MACs that a layer has left which makes or carries channels and stays whole."""
        share = 1.0
        for name in filter(None, (self.makes, self.carries)):
            share *= widths[name] / counts[name]
        return share


def seen_by(sets: Sequence[HiddenSet], output: str) -> Seen:
    """Return the sets of channels that the layer with this output sees."""
    reads: dict[str, int] = {}
    makes = carries = None
    for one in sets:
        for reader in one.channels.readers:
            if reader.output == output:
                reads[one.name] = reads.get(one.name, 0) + reader.repeat
        makes = one.name if output in one.channels.makers else makes
        carries = one.name if output in one.channels.carriers else carries
    return Seen(reads, makes, carries)


def narrowed_shape(shape: ConvShape, seen: Seen, counts: Mapping[str, int], widths: Mapping[str, int]) -> ConvShape:
    """Return the geometry of a layer at some widths.

    Parameters
    ----------
    shape
        Its geometry with all channels.
    seen
        The sets that it sees.
    counts, widths
        The numbers of channels of these sets, all of them and those that stay.
    """
    gone = sum(times * (counts[name] - widths[name]) for name, times in seen.reads.items())
    narrowed = replace(shape, channels=shape.channels - gone)
    if seen.makes:
        narrowed = replace(narrowed, filters=widths[seen.makes])
    if seen.carries:
        narrowed = replace(narrowed, group=widths[seen.carries])
    return narrowed


def hidden_sets(run: Run, read: Read, counted: Counted) -> tuple[HiddenSet, ...]:
    """Return the sets of channels of which some may go, in the order of the network.

    Only sets whose readers are all solved in the walk take part, and layers that share their weights keep all channels.

    Parameters
    ----------
    run
        The surroundings.
    read, counted
        The network and its layers.
    """
    options = run.options
    # On another machine nothing tells how long a narrow model takes.
    if options.width == "none" or options.solver == "weights" or options.latency_device or options.symmetric:
        return ()
    layers = solved_layers(counted)
    shared = {name for family in counted.families if len(family.names) > 1 for name in family.names}
    together = {site.output for site in counted.sites if site.name in shared}
    found = find_hidden_channels(read.network, untouchable(read) | together)
    suitable = (channels for channels in found if _suits(channels, layers))
    multiple = options.rank_multiple
    sets = (HiddenSet(_name(read, each), each, tuple(widths_of(each.count, multiple))) for each in suitable)
    return tuple(one for one in sets if len(one.widths) > 1)


def solved_layers(counted: Counted) -> dict[str, ConvSite]:
    """Return the layers that the walk solves or fits again, as convolutions, by their outputs."""
    layers = {layer.output: dense_site(layer) for layer in counted.dense}
    return layers | {site.output: site for site in counted.sites}


def untouchable(read: Read) -> frozenset[str]:
    """Return the outputs of the layers that the user wants to stay as they are."""
    own = ("excluded by --exclude", "not named by --include")
    return frozenset(skip.output for skip in read.layers.skipped if skip.reason in own and skip.output)


def _name(read: Read, channels: HiddenChannels) -> str:
    """Return the name of the set: that of the first layer that makes it."""
    found = read.layers
    names = {site.output: site.name for site in (*found.sites, *found.first)}
    names |= {layer.output: layer.name for layer in found.dense}
    names |= {skip.output: skip.name for skip in found.skipped if skip.output}
    first = min(channels.makers, key=lambda output: position(read.network, output))
    return names.get(first, first)


def _suits(channels: HiddenChannels, layers: Mapping[str, ConvSite]) -> bool:
    return channels.count >= FEWEST_CHANNELS and all(reader.output in layers for reader in channels.readers)


def widths_of(count: int, multiple: int | str | None = None) -> list[int]:
    """Return the widths that are considered for a number of channels, ascending; the last one is all of them.

    They are multiples of the rank multiple where the user has named one.
    """
    step = next((block for block in BLOCKS if count >= FEWEST_STEPS * block), 2)
    if isinstance(multiple, int) and multiple > 1:
        step = multiple
    widths = [width for width in range(step, count, step) if width >= LEAST_SHARE * count]
    thinned = widths[:: -(-len(widths) // MOST_WIDTHS)] if widths else []
    return [*thinned, count]


def least_macs(counted: Counted, sets: Sequence[HiddenSet], kinds: FormTable, multiple: RankMultiple) -> int:
    """Return about the least MACs of the layers that the speedup is about: every set at its smallest width."""
    counts = {one.name: one.count for one in sets}
    smallest = {one.name: one.widths[0] for one in sets}
    total, sites = 0, {site.output for site in counted.sites}
    for family in counted.families:
        seen = seen_by(sets, family.members[0].output)
        shapes = [narrowed_shape(shape, seen, counts, smallest) for shape in counted.shapes_of(family)]
        total += lowest_macs(shapes, kinds, multiple)
    for output, macs in counted.macs.aimed_at.items():
        if output not in sites:
            total += round(macs * seen_by(sets, output).share(counts, smallest))
    return total
