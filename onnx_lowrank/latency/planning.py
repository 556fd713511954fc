"""A plan by the clock: which layers are measured, what is chosen, and what the whole model then takes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.form import Cuts
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.costs import LatencyCosts
from onnx_lowrank.latency.grid import ranks_to_measure
from onnx_lowrank.latency.measurement import measure_models
from onnx_lowrank.latency.search import Found, WholeTime, out_of_reach, search
from onnx_lowrank.latency.stopwatch import Stopwatch, open_stopwatch
from onnx_lowrank.latency.table import ALONE, Choice, Setting
from onnx_lowrank.latency.trial import Factors, meaningless, trial, weights_alone
from onnx_lowrank.options import AUTO, Options
from onnx_lowrank.plan.choices import Layer
from onnx_lowrank.plan.cost import Costs
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.plan.select import Chosen
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.providers import device_name, provider_names, runtime_version
from onnx_lowrank.runtime.session import Opener, opener

SURE = 1.3
"""Where the layers' times alone promise so many times the speedup asked for, it is taken to be within reach."""


@dataclass(frozen=True)
class Clocked:
    """What was measured of a model before anything is planned.

    Attributes
    ----------
    stopwatch
        The layers' times.
    geometries
        By site name.
    multiple
        The rank multiple.
    original_ms
        The whole model's time.
    batch
        Indices of the samples in a measured run.
    """

    stopwatch: Stopwatch
    geometries: Mapping[str, ConvGeometry]
    multiple: int
    original_ms: float
    batch: tuple[int, ...]

    def costs(self, site: str) -> LatencyCosts:
        """The times of one site's choices, as known by now."""
        return LatencyCosts(self.stopwatch.layer(self.geometries[site], ()))


@dataclass(frozen=True)
class LatencyPlan:
    """A plan by the clock and what it is expected to take.

    Attributes
    ----------
    clocked
        The measurements behind it.
    found
        The search's result.
    milliseconds
        (as it is, as planned) by site name.
    """

    clocked: Clocked
    found: Found
    milliseconds: Mapping[str, tuple[float, float]]


def timed_batch(sampling: Sampling, options: Options) -> tuple[int, ...]:
    """Indices of the samples in a measured run; few samples are repeated.

    Raises
    ------
    UsageError
        Where the model demands another number.
    """
    single = sampling.single
    if options.latency_batch is None or options.latency_batch == len(single):
        return single
    if sampling.fixed:
        raise UsageError(f"the model takes batches of {len(single)}: drop --latency-batch {options.latency_batch}")
    return tuple(i % sampling.samples for i in range(options.latency_batch))


def open_for(sampling: Sampling, options: Options) -> tuple[Stopwatch, tuple[int, ...], Opener]:
    """The stopwatch of a run, the samples in a measured run, and how the models are opened: as deployed."""
    batch = timed_batch(sampling, options)
    open_session = opener(options.providers, options.threads, spinning=True)
    provider = provider_names(options.providers)[0]
    here = Setting(device_name(provider), provider, runtime_version(), options.threads, len(batch))
    path = Path(options.latency_table) if options.latency_table else None
    return open_stopwatch(path, options.latency_device, here, open_session), batch, open_session


def rank_multiple(
    sites: Sequence[ConvSite], macs: Macs, sampling: Sampling, options: Options, progress: Progress
) -> int:
    """The rank multiple, measured where it is to be found."""
    if options.multiple != AUTO:
        return int(options.multiple)
    progress("measure", 0, 1)
    stopwatch, batch, _ = open_for(sampling, options)
    convolutions = [site for site in sites if site.kernel.ndim > 2]
    geometries = [ConvGeometry.of(s, macs.shapes[s.input], len(batch)) for s in convolutions]
    multiple = stopwatch.step(geometries) if geometries else 1
    stopwatch.save()
    if options.target == "macs":
        progress("measure", 1, 1)
    return multiple


def clock_layers(
    loaded: LoadedModel,
    sites: Sequence[ConvSite],
    shapes: Mapping[str, ConvShape],
    macs: Macs,
    sampling: Sampling,
    options: Options,
    forms: tuple[str, ...],
    multiple: int,
    progress: Progress,
) -> Clocked:
    """Measure the layers in some forms at multiples of a rank, as far as the table lacks them, and the whole model.

    Raises
    ------
    UsageError
        Where the table of another device lacks something.
    EnvironmentFault
        Where the table cannot be written.
    """
    stopwatch, batch, open_session = open_for(sampling, options)
    geometries = {s.name: ConvGeometry.of(s, macs.shapes[s.input], len(batch)) for s in sites}
    distinct = {geometry: shapes[name] for name, geometry in geometries.items()}
    total = len(distinct) + 2
    progress("measure", 1, total)
    feeds = sampling.source.feeds(batch)
    key = model_key(loaded, feeds)
    if key not in stopwatch.times.models:
        if not stopwatch.here:
            raise UsageError(
                f"the latency table has no time of this model, for such inputs, of {stopwatch.setting}: measure it "
                "there, with --measure-latency"
            )
        session = open_session(loaded.proto, "the model")
        (stopwatch.times.models[key],), _ = measure_models([session], feeds)
        stopwatch.measured += 1
    for done, (geometry, shape) in enumerate(distinct.items(), 2):
        progress("measure", done, total)
        stopwatch.layer(geometry, [ALONE, *ranks_to_measure(shape, forms, multiple)])
    stopwatch.save()
    progress("measure", total, total)
    return Clocked(stopwatch, geometries, multiple, stopwatch.times.models[key], batch)


def model_key(loaded: LoadedModel, feeds: Feeds) -> str:
    """What a whole model's time is kept under: the file and the shapes of its inputs."""
    shapes = ",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items())
    return f"{loaded.sha256} {shapes}"


def check_reach(
    clocked: Clocked,
    loaded: LoadedModel,
    sites: Sequence[ConvSite],
    sampling: Sampling,
    options: Options,
    allowed: tuple[str, ...],
) -> None:
    """Refuse a speedup that no choice reaches, before anything is profiled.

    Where the layers' times leave it open, the whole model is measured at its fastest choices.

    Raises
    ------
    TargetError
        With the largest ratio that was reached.
    """
    fastest, saved = [], 0.0
    for site in sites:
        costs = clocked.costs(site.name)
        choices = {c: t for c, t in costs.times.items() if c == ALONE or c[0] in allowed}
        best = min(choices, key=lambda choice: choices[choice])
        fastest.append(SitePlan(site.name, *best))
        saved += costs.times[ALONE] - choices[best]
    if options.speedup <= 1 or clocked.original_ms > SURE * options.speedup * (clocked.original_ms - saved):
        return
    plan = Plan(tuple(fastest))
    if not any(choice.form for choice in plan.sites) and not folds(loaded):
        raise out_of_reach(options.speedup, 1.0)
    if clocked.stopwatch.here:
        feeds = sampling.source.feeds(clocked.batch)
        reached = whole_times(loaded, sites, feeds, options, meaningless)(plan).ratio
    else:
        reached = clocked.original_ms / max(clocked.original_ms - saved, 1e-9)
    if reached < options.speedup:
        raise out_of_reach(options.speedup, reached)


def choose_by_clock(
    clocked: Clocked,
    loaded: LoadedModel,
    sites: Sequence[ConvSite],
    cuts: Mapping[str, tuple[Cuts, ...]],
    layers_at: Callable[[Mapping[str, Costs]], Sequence[Layer]],
    sampling: Sampling,
    options: Options,
) -> tuple[Plan, LatencyPlan]:
    """The forms and ranks of all sites for the speedup by the clock.

    Parameters
    ----------
    clocked
        The measurements.
    loaded, sites, cuts
        The model, its sites and what their forms need.
    layers_at
        The choices of all sites, in their order, at costs by site name.
    sampling, options
        Of the run.

    Raises
    ------
    TargetError
        With the largest ratio that was reached.
    """

    def layers_now() -> Sequence[Layer]:
        return layers_at({site.name: clocked.costs(site.name) for site in sites})

    def plan(layers: Sequence[Layer], chosen: Chosen) -> Plan:
        return Plan(tuple(SitePlan(x.name, *x.choice(i)) for x, i in zip(layers, chosen, strict=True)))

    def refine(layers: Sequence[Layer], chosen: Chosen) -> bool:
        wanted: dict[ConvGeometry, list[Choice]] = {}
        for choice in plan(layers, chosen).sites:
            geometry, ranks = clocked.geometries[choice.name], (choice.form, choice.ranks)
            if choice.form and ranks not in clocked.costs(choice.name).times:
                wanted.setdefault(geometry, []).append(ranks)
        if not clocked.stopwatch.here:
            return False
        for geometry, choices in wanted.items():
            clocked.stopwatch.layer(geometry, choices)
        return bool(wanted)

    measure = folded = None
    if clocked.stopwatch.here:
        feeds = sampling.source.feeds(clocked.batch)
        whole = whole_times(loaded, sites, feeds, options, weights_alone(cuts))
        measure = lambda layers, chosen: whole(plan(layers, chosen))  # noqa: E731
        folded = whole(Plan(tuple(SitePlan(site.name, None) for site in sites))) if folds(loaded) else None
    found = search(layers_now, refine, measure, clocked.original_ms, options.speedup, options.ranks, folded)
    clocked.stopwatch.save()
    chosen = plan(found.layers, found.chosen)
    milliseconds = {}
    for choice in chosen.sites:
        costs = clocked.costs(choice.name)
        milliseconds[choice.name] = (costs.times[ALONE], costs.milliseconds((choice.form, choice.ranks)))
    return chosen, LatencyPlan(clocked, found, milliseconds)


def folds(loaded: LoadedModel) -> bool:
    """Whether the model has nodes that become part of a convolution, which may make it faster or slower as it is."""
    return bool(normalise(loaded.proto).folded)


def whole_times(
    loaded: LoadedModel, sites: Sequence[ConvSite], feeds: Feeds, options: Options, factors: Factors
) -> Callable[[Plan], WholeTime]:
    """Measures plans as whole models, in turns with the original, with the run's providers and threads."""
    open_session = opener(options.providers, options.threads, spinning=True)
    original = open_session(loaded.proto, "the model")

    def measure(plan: Plan) -> WholeTime:
        rewritten = open_session(trial(loaded, sites, plan, factors), "the rewritten model")
        (before, after), speed = measure_models([original, rewritten], feeds)
        return WholeTime(before, after, speed.value, speed.low)

    return measure
