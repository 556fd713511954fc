"""From the profile to the plan: what every site may become, and what is chosen for it."""

from collections.abc import Mapping, Sequence

from onnx_lowrank.factorise import channel, spatial
from onnx_lowrank.graph.sites import ConvSite
from onnx_lowrank.options import Options
from onnx_lowrank.plan.choices import FORMS, choices
from onnx_lowrank.plan.cost import ConvShape
from onnx_lowrank.plan.energy import log_energies, spectrum
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.plan.select import allocate
from onnx_lowrank.profile import Macs, Targets


def forms_allowed(options: Options) -> tuple[str, ...]:
    """The forms among which the planner chooses."""
    return FORMS if options.form == "auto" else (options.form,)


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


def choose(
    sites: Sequence[ConvSite],
    shapes: Mapping[str, ConvShape],
    targets: Mapping[str, Targets],
    columns: Mapping[str, spatial.Columns],
    conv_macs: int,
    options: Options,
) -> Plan:
    """The forms and ranks of all sites for the requested speedup.

    Raises
    ------
    TargetError
        Where no choice reaches it.
    """
    layers = []
    for site in sites:
        values = spectrum(targets[site.name].rows) if targets else channel.weight_energies(site.kernel)
        cut = columns.get(site.name)
        spatial_energy = log_energies(cut.energies) if cut else None
        layers.append(
            choices(site.name, shapes[site.name], log_energies(values), spatial_energy, forms_allowed(options))
        )
    others = conv_macs - sum(layer.alone for layer in layers)
    chosen = allocate(layers, others, options.speedup, options.ranks)
    return Plan(tuple(SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)))
