"""From the profile to the plan: what every site may become, and what is chosen for it."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.factorise.forms import channel, cp, spatial
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Cuts
from onnx_lowrank.graph.find.dense import LinearSite
from onnx_lowrank.graph.find.sites import ConvSite, Skip
from onnx_lowrank.options import Options
from onnx_lowrank.plan.allocate import allocate, check_reach
from onnx_lowrank.plan.cost import Costs
from onnx_lowrank.plan.energy import eigenvalues, held_out_spectrum, log_energies, spectrum
from onnx_lowrank.plan.pareto import FORMS, LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.profile import Array, Targets


def forms_allowed(options: Options) -> tuple[str, ...]:
    """The forms among which the planner chooses."""
    return FORMS if options.form == "auto" else (options.form,)


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
    """What the matrices of a fully connected layer's solution take, about ten of [d, d]; 0 for a convolution."""
    return 80 * len(site.kernel) ** 2 if site.kernel.ndim == 2 else 0


def one_row_per_sample(linears: Sequence[LinearSite], macs: Macs) -> tuple[LinearSite, ...]:
    """The fully connected layers that read one row of every sample."""
    return tuple(site for site in linears if macs.shapes[site.input] == (macs.samples, site.weight.shape[1]))


def named_as(linears: Sequence[LinearSite], sites: Sequence[ConvSite]) -> tuple[LinearSite, ...]:
    """The layers to refit; those that are also sites bear the same name."""
    names = {site.output: site.name for site in sites}
    return tuple(replace(layer, name=names.get(layer.output, layer.name)) for layer in linears)


def drop_unwanted_joins(sites: Sequence[ConvSite], macs: Macs, options: Options) -> tuple[ConvSite, ...]:
    """The sites, their joins given up where these are not wanted, or where the shortcut is spread over the response.

    Without its shortcut a site has no activation either: what follows is that of the sum.
    """

    def keeps(site: ConvSite) -> bool:
        if site.join is None:
            return True
        response = macs.shapes[site.output]
        return options.residual and macs.shapes[site.join.shortcut] == tuple(response[axis] for axis in site.join.axes)

    return tuple(site if keeps(site) else replace(site, join=None, activation=None) for site in sites)


def check_speedup(shapes: Mapping[str, ConvShape], all_macs: int, options: Options, multiple: int) -> None:
    """Refuse a speedup that no choice reaches, before anything is profiled.

    Raises
    ------
    TargetError
        With the highest that can be reached.
    """
    saved = sum(shape.macs - shape.lowest(forms_allowed(options), multiple) for shape in shapes.values())
    check_reach(all_macs, all_macs - saved, options.speedup, multiple)


def why_left_alone(shape: ConvShape, options: Options, multiple: int, *, given: bool, slower: bool = False) -> str:
    """Why a site is not factorised.

    ``given`` says whether the plan came from the user, ``slower`` whether nothing was measured to be faster.
    """
    if given:
        return "left alone by the given plan"
    if not any(shape.takes(form) for form in forms_allowed(options)):
        extends = "beyond a pixel" if options.form == "cp" else "in two directions"
        return f"left alone: the form {options.form} needs a kernel that extends {extends}"
    if slower:
        return "left alone: measured slower in every form"
    if shape.lowest(forms_allowed(options), multiple) == shape.macs:
        rank = "rank" if multiple == 1 else f"rank that is a multiple of {multiple}"
        return f"left alone: no {rank} saves MACs here"
    return "left alone: the planner reaches the speedup without it"


def sites_to_cut(sites: Sequence[ConvSite], options: Options, plan: Plan | None) -> frozenset[str]:
    """Names of the sites whose cuts are needed, for choosing or because a given plan has one."""
    if plan:
        return frozenset(choice.name for choice in plan.sites if choice.form not in ("channel", None))
    if forms_allowed(options) == ("channel",):
        return frozenset()
    return frozenset(site.name for site in sites if math.prod(site.kernel.shape[2:]) > 1)


def cut_kernels(
    sites: Sequence[ConvSite], names: frozenset[str], targets: Mapping[str, Targets], forms: Collection[str | None]
) -> dict[str, tuple[Cuts, ...]]:
    """What the forms need of the named sites, one for every group, by site name.

    It is from the weights alone where nothing was profiled.
    """

    def cut(site: ConvSite) -> tuple[Cuts, ...]:
        target, none = targets.get(site.name), (None,) * site.group
        columns: Sequence[spatial.Columns | None] = none
        polyadic: Sequence[cp.Polyadic | None] = none
        if not {"spatial", "3d"}.isdisjoint(forms) and min(spatial.two_sizes(site.kernel.shape[2:])) > 1:
            covariances = target.covariances if target else none
            columns = [spatial.cut(kernel, S) for kernel, S in zip(site.kernels, covariances, strict=True)]
        if "cp" in forms:
            pixels = target.pixels if target else none
            polyadic = [cp.Polyadic.of(kernel, both) for kernel, both in zip(site.kernels, pixels, strict=True)]
        return tuple(Cuts(*parts) for parts in zip(columns, polyadic, strict=True))

    return {site.name: cut(site) for site in sites if site.name in names}


def cuts_of(plan: Plan, cuts: Mapping[str, tuple[Cuts, ...]]) -> dict[str, tuple[Cuts, ...]]:
    """Of the cuts, those that a plan asks for: the others take as much memory as all kernels several times over."""

    def needed(form: str | None, cut: Cuts) -> Cuts:
        return Cuts(cut.columns if form in ("spatial", "3d") else None, cut.polyadic if form == "cp" else None)

    return {
        choice.name: tuple(needed(choice.form, cut) for cut in cuts[choice.name])
        for choice in plan.sites
        if choice.name in cuts and choice.form not in ("channel", None)
    }


def conv_shapes(sites: Sequence[ConvSite], macs: Macs) -> dict[str, ConvShape]:
    """What the planner needs to know of every site, by site name."""
    shapes = {}
    for site in sites:
        d, c, *sizes = site.kernel.shape
        read, made = (macs.shapes[name][2:] for name in (site.input, site.output))
        # A k×1 convolution pads the height alone, so its output is as wide as the input.
        behind = spatial.cut_behind(sizes)
        between = math.prod(made[:behind] + read[behind:])
        # Each group costs what a small convolution costs.
        d, g = d // site.group, site.group
        shapes[site.name] = ConvShape(
            d, c, spatial.two_sizes(sizes), g * math.prod(made), g * between, g * math.prod(read)
        )
    return shapes


@dataclass(frozen=True)
class Energies:
    """What a site keeps at every rank: log E(d'), [d], and log E_s(d'') and that of the CP form, None where not cut."""

    channel: Array
    columns: Array | None = None
    polyadic: Array | None = None


def energies(
    sites: Sequence[ConvSite], targets: Mapping[str, Targets], cuts: Mapping[str, tuple[Cuts, ...]]
) -> dict[str, Energies]:
    """By site name; of the weights alone where nothing was profiled."""
    found = {}
    for site in sites:
        values = _spectrum(site, targets.get(site.name))
        own = cuts.get(site.name, ())
        columns = [cut.columns.energies for cut in own if cut.columns]
        polyadic = [cut.polyadic.energies for cut in own if cut.polyadic]
        found[site.name] = Energies(
            log_energies(values),
            log_energies(np.sum(columns, axis=0)) if columns else None,
            np.log(cp.kept(np.sum(polyadic, axis=0))) if polyadic else None,
        )
    return found


def _spectrum(site: ConvSite, target: Targets | None) -> Array:
    """The PCA energies of a site's responses, without the shortcut: only they are of low rank; or of its weights.

    Where there is one row of every sample they are those of held-out ones, or the samples would seem to need no more
    components than there are of them.

    All groups have the same rank, so they lose their i-th components together.
    """
    if target is None:
        parts = [channel.weight_energies(kernel) for kernel in site.kernels]
    elif site.kernel.ndim == 2:
        return held_out_spectrum(target.rows, channel.gram(site.kernel))
    elif target.responses is None:
        parts = [spectrum(rows) for rows in np.split(target.rows, site.group, axis=1)]
    else:
        own = np.split(np.arange(len(site.kernel)), site.group)
        parts = [eigenvalues(target.responses[np.ix_(filters, filters)]) for filters in own]
    return np.asarray(np.sum(parts, axis=0))


def layers_to_choose(
    kept: Mapping[str, Energies],
    shapes: Mapping[str, ConvShape],
    options: Options,
    multiple: int,
    costs: Mapping[str, Costs] | None = None,
) -> list[LayerChoices]:
    """The choices of all sites, at MACs, or at ``costs`` by site name."""
    forms = forms_allowed(options)
    return [
        pareto_front(
            name,
            shapes[name],
            e.channel,
            e.columns,
            forms,
            multiple=multiple,
            costs=costs[name] if costs else None,
            polyadic=e.polyadic,
        )
        for name, e in kept.items()
    ]


def choose(layers: Sequence[LayerChoices], all_macs: int, options: Options) -> Plan:
    """The forms and ranks of all sites for the requested speedup of ``all_macs``.

    Raises
    ------
    TargetError
        Where no choice reaches it.
    """
    others = all_macs - sum(layer.untouched for layer in layers)
    chosen = allocate(layers, others, options.speedup, options.ranks)
    return Plan(tuple(SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)))
