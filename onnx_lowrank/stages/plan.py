"""From the profile to the plan: what every site may become, and what is chosen for it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.factorise.evidence import Evidence
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.kind import Energies, FormKind, Preparation, PreparedKernel, preparations
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite, Skip
from onnx_lowrank.options import Options
from onnx_lowrank.plan.allocate import allocate, check_reach
from onnx_lowrank.plan.cost import Costs, lowest_macs
from onnx_lowrank.plan.pareto import LayerChoices, pareto_front
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.stages.profile import Targets


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


def one_row_per_sample(linears: Sequence[DenseLayer], macs: Macs) -> tuple[DenseLayer, ...]:
    """The fully connected layers that read one row of every sample."""
    return tuple(site for site in linears if macs.shapes[site.input] == (macs.samples, site.shape[1]))


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


def check_speedup(
    shapes: Mapping[str, ConvShape], all_macs: int, kinds: FormTable, options: Options, multiple: int
) -> None:
    """Refuse a speedup that no choice reaches, before anything is profiled.

    Raises
    ------
    TargetError
        With the highest that can be reached.
    """
    saved = sum(shape.macs - lowest_macs(shape, kinds, multiple) for shape in shapes.values())
    check_reach(all_macs, all_macs - saved, options.speedup, multiple)


def why_left_alone(shape: ConvShape, kinds: FormTable, multiple: int, *, given: bool, slower: bool = False) -> str:
    """Why a site is not factorised.

    ``kinds`` are those that were allowed, ``given`` says whether the plan came from the user, and ``slower`` whether
    nothing was measured to be faster.
    """
    if given:
        return "left alone by the given plan"
    if not any(kind.takes(shape) for kind in kinds):
        return f"left alone: the form {' or '.join(kinds.names)} needs {' or '.join({kind.needs for kind in kinds})}"
    if slower:
        return "left alone: measured slower in every form"
    if lowest_macs(shape, kinds, multiple) == shape.macs:
        rank = "rank" if multiple == 1 else f"rank that is a multiple of {multiple}"
        return f"left alone: no {rank} saves MACs here"
    return "left alone: the planner reaches the speedup without it"


def needed_preparations(
    shapes: Mapping[str, ConvShape], kinds: FormTable, plan: Plan | None
) -> dict[str, tuple[type[Preparation], ...]]:
    """What has to be derived from the kernels, by site name, to choose among the kinds or to replay a given plan."""
    wanted = {name: tuple(kinds) for name in shapes}
    if plan:
        wanted = {site.name: (kinds[site.form],) if site.form else () for site in plan.sites}
    return {name: preparations(wanted[name], shape) for name, shape in shapes.items()}


def prepare_kernels(
    sites: Sequence[ConvSite], needed: Mapping[str, tuple[type[Preparation], ...]], targets: Mapping[str, Targets]
) -> dict[str, tuple[PreparedKernel, ...]]:
    """What is derived from the kernel of every group, by site name.

    It comes from the weights alone where nothing was profiled.
    """

    def prepared(site: ConvSite) -> tuple[PreparedKernel, ...]:
        target = targets.get(site.name)
        return tuple(
            {kind: kind.of(kernel, target.moments[kind][number] if target else None) for kind in needed[site.name]}
            for number, kernel in enumerate(site.kernels)
        )

    return {site.name: prepared(site) for site in sites}


def prepared_for(
    plan: Plan, prepared: Mapping[str, tuple[PreparedKernel, ...]], forms: FormTable
) -> dict[str, tuple[PreparedKernel, ...]]:
    """What a plan asks for of what was prepared: the rest takes as much memory as all kernels several times over."""

    def kept(choice: SitePlan) -> tuple[PreparedKernel, ...]:
        wanted = forms[choice.form].preparation if choice.form else None
        return tuple({wanted: kernel[wanted]} if wanted else {} for kernel in prepared[choice.name])

    return {choice.name: kept(choice) for choice in plan.sites}


def conv_shapes(sites: Sequence[ConvSite], macs: Macs) -> dict[str, ConvShape]:
    """The geometry of every site, by site name."""

    def shape(site: ConvSite) -> ConvShape:
        d, c, *sizes = site.kernel.shape
        read, written = (tuple(macs.shapes[name][2:]) for name in (site.input, site.output))
        return ConvShape(d // site.group, c, tuple(sizes), read, written, site.group)

    return {site.name: shape(site) for site in sites}


def evidence_of(site: ConvSite, target: Targets | None, prepared: tuple[PreparedKernel, ...]) -> Evidence:
    """What is known of a site before its form is chosen."""
    kernels = tuple(site.kernels)
    if target is None:
        return Evidence(kernels, prepared)
    return Evidence(kernels, prepared, target.rows, target.responses)


def site_energies(
    sites: Sequence[ConvSite],
    targets: Mapping[str, Targets],
    prepared: Mapping[str, tuple[PreparedKernel, ...]],
    shapes: Mapping[str, ConvShape],
    kinds: FormTable,
) -> dict[str, dict[FormKind, Energies]]:
    """What every kind of form that takes a site is expected to keep of it, by site name."""

    def energies(site: ConvSite) -> dict[FormKind, Energies]:
        evidence = evidence_of(site, targets.get(site.name), prepared[site.name])
        return {kind: kind.log_energies(evidence) for kind in kinds if kind.takes(shapes[site.name])}

    return {site.name: energies(site) for site in sites}


def layers_to_choose(
    energies: Mapping[str, Mapping[FormKind, Energies]],
    shapes: Mapping[str, ConvShape],
    multiple: int,
    costs: Mapping[str, Costs] | None = None,
) -> list[LayerChoices]:
    """The choices of all sites, at MACs, or at ``costs`` by site name."""
    return [
        pareto_front(name, shapes[name], expected, multiple, costs[name] if costs else None)
        for name, expected in energies.items()
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
