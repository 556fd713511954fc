"""Count: what every layer costs and sees, and which layers can therefore be solved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.calibration.macs import Macs, measure_macs
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.graph.find.dense import DenseLayer, refittable
from onnx_lowrank.graph.find.sites import ConvSite, Skip
from onnx_lowrank.options import Options
from onnx_lowrank.stages.read import Read, check_any
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled


@dataclass(frozen=True)
class Counted:
    """What one run of the original on the smallest batch has shown.

    Attributes
    ----------
    macs
        The multiply-accumulates of all nodes, and the shapes of what they read and make.
    sites
        The layers that can be solved, in topological order.
    shapes
        Their geometry, by name.
    skipped
        All other layers, with the reasons.
    dense
        The fully connected layers that may be fitted again behind factorised ones; a layer may also be a site.
    """

    macs: Macs
    sites: tuple[ConvSite, ...]
    shapes: Mapping[str, ConvShape]
    skipped: tuple[Skip, ...]
    dense: tuple[DenseLayer, ...]


def count(run: Run, read: Read, sampled: Sampled) -> Counted:
    """Run the original once on the smallest batch, count, and keep the sites that can be solved.

    Raises
    ------
    ModelError
        Where none is left.
    """
    options, found = run.options, read.found
    with run.times.stage("profile"):
        run.progress("profile", 0, 1)
        shortcuts = [site.join.shortcut for site in found.sites if site.join]
        sampling = sampled.sampling
        macs = measure_macs(read.network, sampling, run.open_session, shortcuts, gemm=options.include_gemm)
        solvable, others = solvable_sites(found.sites, macs, options)
        sites, skipped = drop_unwanted_joins(solvable, macs, options), (*found.skipped, *others)
        check_any(sites, skipped)
        dense: tuple[DenseLayer, ...] = ()
        if refits(options):
            behind = refittable(read.network, found.dense, [site.output for site in sites])
            dense = one_row_per_sample(behind, macs)
    return Counted(macs, sites, conv_shapes(sites, macs), skipped, dense)


def refits(options: Options) -> bool:
    """Whether layers are fitted again: where the walk sees both the original network and the approximated one."""
    return options.refit and options.solver != "weights" and not options.symmetric


def solvable_sites(
    sites: Sequence[ConvSite], macs: Macs, options: Options
) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """The sites that see one image of every sample and fit in memory, and the others as skipped.

    Behind a Reshape to patches, or in the head of a detector that looks at regions, the first dimension counts
    something else. Costs are those of one sample, and rows are matched sample by sample.
    """

    def reason(site: ConvSite) -> str | None:
        shape = macs.shapes[site.input]
        if site.kernel.ndim == 2 and shape != (macs.samples, site.kernel.shape[1]):
            return "it does not read one row of every sample"
        if dense_bytes(site) > options.memory // 2:
            return "it has so many responses that solving it takes too much memory (--memory)"
        return None if shape[0] == macs.samples else "its batch is not the model's"

    reasons = {site.name: reason(site) for site in sites}
    others = tuple(Skip(name, why) for name, why in reasons.items() if why)
    return tuple(site for site in sites if not reasons[site.name]), others


def dense_bytes(site: ConvSite) -> int:
    """The bytes that solving a fully connected layer takes, about ten matrices [d, d]; 0 for a convolution."""
    return 80 * len(site.kernel) ** 2 if site.kernel.ndim == 2 else 0


def drop_unwanted_joins(sites: Sequence[ConvSite], macs: Macs, options: Options) -> tuple[ConvSite, ...]:
    """The sites, without joins that are not wanted or whose shortcut is spread over the response.

    A site without its shortcut has no activation either: what follows is the activation of the sum.
    """

    def keeps(site: ConvSite) -> bool:
        if site.join is None:
            return True
        response = macs.shapes[site.output]
        return options.residual and macs.shapes[site.join.shortcut] == tuple(response[axis] for axis in site.join.axes)

    return tuple(site if keeps(site) else replace(site, join=None, activation=None) for site in sites)


def one_row_per_sample(layers: Sequence[DenseLayer], macs: Macs) -> tuple[DenseLayer, ...]:
    """The fully connected layers that read one row of every sample."""
    return tuple(layer for layer in layers if macs.shapes[layer.input] == (macs.samples, layer.shape[1]))


def conv_shapes(sites: Sequence[ConvSite], macs: Macs) -> dict[str, ConvShape]:
    """The geometry of every site, by site name."""

    def shape(site: ConvSite) -> ConvShape:
        d, c, *sizes = site.kernel.shape
        read, written = (tuple(macs.shapes[name][2:]) for name in (site.input, site.output))
        return ConvShape(d // site.group, c, tuple(sizes), read, written, site.group)

    return {site.name: shape(site) for site in sites}
