"""The layers of the approximated network that can be rounded, with what is known of their responses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.calibration.macs import Macs, measure_macs
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import Skip
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.layers import quantisable
from onnx_lowrank.stages.count import drop_unwanted_joins, solvable_sites
from onnx_lowrank.stages.positions import rows_wanted
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.profile import Targets
from onnx_lowrank.stages.run import Run


@dataclass(frozen=True)
class Roundable:
    """A layer that can be rounded.

    Attributes
    ----------
    site
        The layer. Where the original makes the same tensor, it has the original layer's name, by which the positions
        are drawn.
    label
        Its name in the network.
    per_sample
        The number of positions at which it is looked at in every sample.
    target
        The original's responses at these positions; None where there are none.
    """

    site: ConvSite
    label: str
    per_sample: int
    target: Targets | None


@dataclass(frozen=True)
class Roundables:
    """The layers of a network.

    Attributes
    ----------
    network
        The network.
    layers
        Those that can be rounded, in their order.
    skipped
        The others, with the reasons.
    macs
        The multiply-accumulates of all nodes.
    """

    network: Network
    layers: tuple[Roundable, ...]
    skipped: tuple[Skip, ...]
    macs: Macs


def roundable(run: Run, prepared: Prepared, network: Network) -> Roundables:
    """Find the layers of an approximated network that can be rounded.

    Those that do not see one image, or one row, of every sample stay as they are: nobody could say what they read.
    """
    options, sampling = run.options, prepared.sampled.sampling
    found = quantisable(network, options.exclude)
    shortcuts = [site.join.shortcut for site in found.sites if site.join]
    macs = measure_macs(network, sampling, run.open_session, shortcuts, gemm=True)
    sites, unseen = solvable_sites(found.sites, macs, options)
    known = {site.output: site.name for site in prepared.counted.sites}
    samples = sampling.samples

    def layer(site: ConvSite) -> Roundable:
        target = prepared.profiled.targets.get(known.get(site.output, site.name))
        if target is None or site.depthwise:
            return Roundable(replace(site, join=None), site.name, max(1, rows_wanted(site) // samples), None)
        named = replace(site, name=known.get(site.output, site.name))
        return Roundable(named, site.name, target.per_sample, target)

    return Roundables(
        network, tuple(map(layer, drop_unwanted_joins(sites, macs, options))), (*found.skipped, *unseen), macs
    )


def behind_pairs(network: Network, layers: Sequence[Roundable], rounded: Mapping[str, str]) -> list[Roundable]:
    """Return the layers as they stand in a network with pairs behind its tensors.

    Parameters
    ----------
    network
        The network.
    layers
        As found before the pairs were put in.
    rounded
        The names under which the rounded values of tensors are read.
    """
    makers = {tensor.name: node for node in network.nodes for tensor in node.outputs if tensor.name}
    exact = {name: makers[name].inputs[0].inputs[0].inputs[0].name for name in rounded if rounded[name] == name}

    def moved(layer: Roundable) -> Roundable:
        site = layer.site
        output = exact.get(site.output, site.output)
        node, join = makers[output if output in makers else site.output], site.join
        if join is not None:
            add = makers[exact.get(join.total, join.total)]
            read = {tensor.name for tensor in add.inputs}
            shortcut = rounded.get(join.shortcut, join.shortcut)
            join = replace(join, shortcut=shortcut if shortcut in read else join.shortcut)
        return replace(layer, site=replace(site, input=node.inputs[0].name, output=output, join=join))

    return [moved(layer) for layer in layers]
