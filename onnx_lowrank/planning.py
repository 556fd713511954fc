"""From the profile to the plan: what every site may become, and what is chosen for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.costs import Macs
from onnx_lowrank.factorise import channel, spatial
from onnx_lowrank.graph.linears import LinearSite
from onnx_lowrank.graph.sites import ConvSite, Skip
from onnx_lowrank.options import Options
from onnx_lowrank.plan.choices import FORMS, Layer, choices
from onnx_lowrank.plan.cost import ConvShape, Costs
from onnx_lowrank.plan.energy import eigenvalues, log_energies, spectrum
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.plan.select import allocate, check_reach
from onnx_lowrank.profile import Array, Targets


def forms_allowed(options: Options) -> tuple[str, ...]:
    """The forms among which the planner chooses."""
    return FORMS if options.form == "auto" else (options.form,)


def with_the_batch(sites: Sequence[ConvSite], macs: Macs) -> tuple[tuple[ConvSite, ...], tuple[Skip, ...]]:
    """The sites that see one image of every sample, and the others as skipped.

    Behind a Reshape to patches, or in the head of a detector that looks at regions, the first dimension counts
    something else. Costs are those of one sample, and rows are matched sample by sample.
    """
    alike = {site.name: macs.shapes[site.input][0] == macs.samples for site in sites}
    others = tuple(Skip(site.name, "its batch is not the model's") for site in sites if not alike[site.name])
    return tuple(site for site in sites if alike[site.name]), others


def with_a_row_each(linears: Sequence[LinearSite], macs: Macs) -> tuple[LinearSite, ...]:
    """The fully connected layers that read one row of every sample."""
    return tuple(site for site in linears if macs.shapes[site.input] == (macs.samples, site.weight.shape[1]))


def with_the_joins(sites: Sequence[ConvSite], macs: Macs, options: Options) -> tuple[ConvSite, ...]:
    """The sites, their joins given up where these are not wanted, or where the shortcut is spread over the response.

    Without its shortcut a site has no activation either: what follows is that of the sum.
    """

    def keeps(site: ConvSite) -> bool:
        if site.join is None:
            return True
        return options.residual and macs.shapes[site.join.shortcut] == macs.shapes[site.output]

    return tuple(site if keeps(site) else replace(site, join=None, activation=None) for site in sites)


def check_speedup(shapes: Mapping[str, ConvShape], conv_macs: int, options: Options, multiple: int) -> None:
    """Refuse a speedup that no choice reaches, before anything is profiled.

    Raises
    ------
    TargetError
        With the highest that can be reached.
    """
    saved = sum(shape.macs - shape.lowest(forms_allowed(options), multiple) for shape in shapes.values())
    check_reach(conv_macs, conv_macs - saved, options.speedup, multiple)


def why_left_alone(shape: ConvShape, options: Options, multiple: int, *, given: bool, slower: bool = False) -> str:
    """Why a site is not factorised.

    ``given`` says whether the plan came from the user, ``slower`` whether nothing was measured to be faster.
    """
    if given:
        return "left alone by the given plan"
    if "channel" not in forms_allowed(options) and not shape.splits_in_space:
        return f"left alone: the form {options.form} needs a kernel that extends in both directions"
    if slower:
        return "left alone: measured slower in every form"
    if shape.lowest(forms_allowed(options), multiple) == shape.macs:
        rank = "rank" if multiple == 1 else f"rank that is a multiple of {multiple}"
        return f"left alone: no {rank} saves MACs here"
    return "left alone: the planner reaches the speedup without it"


def sites_to_cut(sites: Sequence[ConvSite], options: Options, plan: Plan | None) -> frozenset[str]:
    """Names of the sites whose spatial cut is needed, for choosing or because a given plan has it."""
    if plan:
        return frozenset(choice.name for choice in plan.sites if choice.form in ("spatial", "3d"))
    if forms_allowed(options) == ("channel",):
        return frozenset()
    return frozenset(site.name for site in sites if min(site.kernel.shape[2:]) > 1)


def cut_columns(
    sites: Sequence[ConvSite], names: frozenset[str], targets: Mapping[str, Targets]
) -> dict[str, spatial.Columns]:
    """The spatial cuts of the named sites, by site name; from the weights alone where nothing was profiled."""
    return {
        site.name: spatial.cut(site.kernel, targets[site.name].covariance if targets else None)
        for site in sites
        if site.name in names
    }


def conv_shapes(sites: Sequence[ConvSite], macs: Macs) -> dict[str, ConvShape]:
    """What the planner needs to know of every site, by site name."""
    shapes = {}
    for site in sites:
        d, c, h, w = site.kernel.shape
        height, width = macs.shapes[site.output][2:]
        # A k×1 convolution pads the height alone, so its output is as wide as the input.
        shapes[site.name] = ConvShape(d, c, (h, w), height * width, height * macs.shapes[site.input][3])
    return shapes


@dataclass(frozen=True)
class Energies:
    """What a site keeps at every rank: log E(d'), [d], and log E_s(d''), None without a spatial cut."""

    channel: Array
    columns: Array | None


def energies(
    sites: Sequence[ConvSite], targets: Mapping[str, Targets], columns: Mapping[str, spatial.Columns]
) -> dict[str, Energies]:
    """By site name; of the weights alone where nothing was profiled."""
    found = {}
    for site in sites:
        values = _spectrum(targets[site.name]) if targets else channel.weight_energies(site.kernel)
        cut = columns.get(site.name)
        found[site.name] = Energies(log_energies(values), log_energies(cut.energies) if cut else None)
    return found


def _spectrum(target: Targets) -> Array:
    """The PCA energies of a site's responses, without the shortcut: only they are of low rank."""
    return spectrum(target.rows) if target.responses is None else eigenvalues(target.responses)


def layers_to_choose(
    kept: Mapping[str, Energies],
    shapes: Mapping[str, ConvShape],
    options: Options,
    multiple: int,
    costs: Mapping[str, Costs] | None = None,
) -> list[Layer]:
    """The choices of all sites, at MACs, or at ``costs`` by site name."""
    forms = forms_allowed(options)
    return [
        choices(
            name, shapes[name], e.channel, e.columns, forms, multiple=multiple, costs=costs[name] if costs else None
        )
        for name, e in kept.items()
    ]


def choose(layers: Sequence[Layer], conv_macs: int, options: Options) -> Plan:
    """The forms and ranks of all sites for the requested speedup in MACs.

    Raises
    ------
    TargetError
        Where no choice reaches it.
    """
    others = conv_macs - sum(layer.alone for layer in layers)
    chosen = allocate(layers, others, options.speedup, options.ranks)
    return Plan(tuple(SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)))
