"""The stage that counts what every layer costs, and keeps the layers that can be solved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.calibration.macs import Macs, measure_macs
from onnx_lowrank.errors import ModelError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.graph.find.dense import DenseLayer, refittable
from onnx_lowrank.graph.find.families import Family, families
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.find.sites import Found, Skip
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.traverse import position
from onnx_lowrank.options import Options
from onnx_lowrank.stages.left_alone import nothing_to_factorise
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled

CHEAP = 0.2
"""The share of the MACs up to which all first convolutions of a network together cost little. Those of the usual
networks for images take 0.6 % (VGG-16) to 16 % (AlexNet)."""

CHEAP_DEPTHWISE = 0.05
"""The share of the MACs up to which all depthwise layers of a network together are left alone. Each of them has a small
layer to solve for every channel, and the 7×7 kernels of ConvNeXt take 2 %."""


@dataclass(frozen=True)
class Counted:
    """The costs and shapes from one run of the original on the smallest batch.

    Attributes
    ----------
    macs
        The multiply-accumulates of all nodes, and the shapes of the tensors that the nodes read and make.
    sites
        The layers that can be solved, in topological order.
    shapes
        The geometry of every site, by name.
    skipped
        All other layers, with the reasons.
    dense
        The fully connected layers that may be fitted again behind factorised ones; a layer may also be a site.
    families
        The sites by their weights: those that share one get the same form, ranks and factors.
    """

    macs: Macs
    sites: tuple[ConvSite, ...]
    shapes: Mapping[str, ConvShape]
    skipped: tuple[Skip, ...]
    dense: tuple[DenseLayer, ...]
    families: tuple[Family, ...]

    def shapes_of(self, family: Family) -> tuple[ConvShape, ...]:
        """Return the geometry of every member of a family."""
        return tuple(self.shapes[name] for name in family.names)

    def family_of(self, name: str) -> Family:
        """Return the family of the site of this name."""
        return next(family for family in self.families if name in family.names)


def count(run: Run, read: Read, sampled: Sampled) -> Counted:
    """Run the original once on the smallest batch, count its MACs, and keep the sites that can be solved.

    Raises
    ------
    ModelError
        If no site is left.
    """
    options, layers = run.options, read.layers
    with run.stage("profile"):
        macs = measured(run, read, sampled)
        candidates, left = with_expensive_first(read.network, layers, macs)
        worthwhile, cheap = without_cheap_depthwise(candidates, macs, options)
        solvable, unsolvable = solvable_sites(worthwhile, macs, options)
        sites, skipped = drop_unwanted_joins(solvable, macs, options), (*left, *cheap, *unsolvable)
        if not sites:
            raise ModelError(nothing_to_factorise(skipped, macs.all))
        dense: tuple[DenseLayer, ...] = ()
        if refits(options):
            behind = refittable(read.network, layers.dense, [site.output for site in sites])
            dense = one_row_per_sample(behind, macs)
    return Counted(macs, sites, conv_shapes(sites, macs), skipped, dense, families(read.network, sites))


def measured(run: Run, read: Read, sampled: Sampled) -> Macs:
    """Return the costs of all nodes.

    Raises
    ------
    ModelError
        If the model cannot be run; one that has nothing to factorise anyway is refused for that reason.
    """
    layers, gemm = read.layers, run.options.include_gemm
    shortcuts = [site.join.shortcut for site in (*layers.sites, *layers.first) if site.join]
    try:
        return measure_macs(read.network, sampled.sampling, run.open_session, shortcuts, gemm=gemm)
    except ModelError:
        if layers.sites or layers.first:
            raise
        raise ModelError(nothing_to_factorise(layers.skipped, {})) from None


def refits(options: Options) -> bool:
    """Return whether layers are fitted again, which takes both the original and the approximated network."""
    return options.refit and options.solver != "weights" and not options.symmetric


def with_expensive_first(network: Network, layers: Found, macs: Macs) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """Return the sites with the first convolutions that do not cost little, in topological order, and the other skips.

    Several first convolutions share what one may cost, so that those that are left alone never take more of the network
    than ``CHEAP``.
    """
    most = CHEAP * sum(macs.aimed_at.values())
    taken = {site.name for site in layers.sites}
    taken |= {site.name for site in layers.first if macs.aimed_at[site.output] * len(layers.first) > most}
    ordered = sorted((*layers.sites, *layers.first), key=lambda site: position(network, site.output))
    for family in families(network, ordered):
        if not taken.isdisjoint(family.names):  # its weight is replaced in any case
            taken |= set(family.names)
    return tuple(s for s in ordered if s.name in taken), tuple(k for k in layers.skipped if k.name not in taken)


def without_cheap_depthwise(
    sites: Sequence[ConvSite], macs: Macs, options: Options
) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """Return the sites without the depthwise ones if these together cost little, and what is skipped.

    Patterns of the user take them nevertheless.
    """
    depthwise = [site for site in sites if site.depthwise]
    cost = sum(macs.aimed_at[site.output] for site in depthwise)
    if options.include is not None or cost > CHEAP_DEPTHWISE * sum(macs.aimed_at.values()):
        return tuple(sites), ()
    skipped = (Skip(site.name, f"depthwise convolution (group={site.group})", site.output) for site in depthwise)
    return tuple(site for site in sites if not site.depthwise), tuple(skipped)


def solvable_sites(
    sites: Sequence[ConvSite], macs: Macs, options: Options
) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """Return the sites that see one image per sample and fit in memory, and the remaining sites as skipped.

    Behind a Reshape to patches, or in the head of a detector that looks at regions, the first dimension counts
    something else than samples. Costs refer to one sample, however, and rows are matched sample by sample.
    """

    def obstacle(site: ConvSite) -> str | None:
        shape = macs.shapes[site.input]
        if site.kernel.ndim == 2 and shape != (macs.samples, site.kernel.shape[1]):
            return "it does not read one row of every sample"
        if dense_bytes(site) > options.memory // 2:
            return "it has so many responses that solving it takes too much memory (--memory)"
        if site.transposition and site.transposition.shrinks(shape[2:]):
            return "its output_shape is smaller than its input: ONNX does not infer the shapes behind it"
        return None if shape[0] == macs.samples else "its batch is not the model's"

    obstacles = {site.name: obstacle(site) for site in sites}
    skipped = tuple(Skip(site.name, reason, site.output) for site in sites if (reason := obstacles[site.name]))
    return tuple(site for site in sites if not obstacles[site.name]), skipped


def dense_bytes(site: ConvSite) -> int:
    """Return the bytes that solving a fully connected layer takes, about ten matrices [d, d]; 0 for a convolution."""
    return 80 * len(site.kernel) ** 2 if site.kernel.ndim == 2 else 0


def drop_unwanted_joins(sites: Sequence[ConvSite], macs: Macs, options: Options) -> tuple[ConvSite, ...]:
    """Return the sites without joins that the user does not want or whose shortcut is spread over the response.

    A site without its shortcut has no activation either, because the activation that follows is that of the sum.
    """

    def keeps_join(site: ConvSite) -> bool:
        if site.join is None:
            return True
        response = macs.shapes[site.output]
        return options.residual and macs.shapes[site.join.shortcut] == tuple(response[axis] for axis in site.join.axes)

    return tuple(site if keeps_join(site) else replace(site, join=None, activation=None) for site in sites)


def one_row_per_sample(layers: Sequence[DenseLayer], macs: Macs) -> tuple[DenseLayer, ...]:
    """Return the fully connected layers that read one row of every sample."""
    return tuple(layer for layer in layers if macs.shapes[layer.input] == (macs.samples, layer.shape[1]))


def conv_shapes(sites: Sequence[ConvSite], macs: Macs) -> dict[str, ConvShape]:
    """Return the geometry of every site, by name."""

    def shape(site: ConvSite) -> ConvShape:
        d, c, *sizes = site.kernel.shape
        size_in, size_out = (tuple(macs.shapes[name][2:]) for name in (site.input, site.output))
        spread = site.strides if site.transposition else None
        return ConvShape(d // site.group, c, tuple(sizes), size_in, size_out, site.group, spread)

    return {site.name: shape(site) for site in sites}
