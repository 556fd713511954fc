"""The first half of the program: load → normalise → find sites → sample → profile the original → plan ranks.

What cannot be is said here, before the long work.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from onnx_lowrank.calibration.macs import measure_macs
from onnx_lowrank.calibration.sampling import split
from onnx_lowrank.data.input_shapes import with_shapes
from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.open import open_source
from onnx_lowrank.errors import ModelError
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import inputs, load, opset, outputs
from onnx_lowrank.graph.find.dense import refittable
from onnx_lowrank.graph.find.sites import ConvSite, Skip, find_sites
from onnx_lowrank.latency.by_clock import check_latency_reach, choose_by_clock
from onnx_lowrank.latency.clocked import Clocked, clock_layers, rank_multiple, timed_batch
from onnx_lowrank.presets import advice
from onnx_lowrank.progress import Listener, Progress
from onnx_lowrank.runtime import blas_threads
from onnx_lowrank.runtime.providers import check_installation
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages.accuracy import check_labelled
from onnx_lowrank.stages.plan import (
    check_speedup,
    choose,
    conv_shapes,
    drop_unwanted_joins,
    layers_to_choose,
    needed_preparations,
    one_row_per_sample,
    prepare_kernels,
    site_energies,
    solvable_sites,
)
from onnx_lowrank.stages.profile import collect_targets
from onnx_lowrank.stages.refit import refits
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.resources import StageTimes
from onnx_lowrank.stages.run import Given, Prepared

SYNTHETIC = (
    "there are no calibration data, so made-up ones take their place ({}): expect a worse result than with real ones; "
    "give --data a few hundred samples such as the model will see, without labels"
)

MISSTATED = (
    "the model states shapes that its own nodes do not make, of {} tensors ({}); the result leaves these statements out"
)

SAMPLES_TO_MEASURE = 8
"""Their shapes count, not what they hold; enough for a model that demands a batch."""


@blas_threads.one_for_scipy()
def prepare(request: Request, listener: Listener, forms: FormTable) -> Prepared:
    """Load the model and the data, profile the original, choose the ranks."""
    options, plan = request.options, request.plan
    progress, warn = listener.progress, listener.warn
    kinds = forms.allowed(options.form)
    clock = StageTimes()
    check_installation(warn)
    open_session = opener(options.providers, options.threads, spinning=False)
    with _stage("load", clock, progress):
        loaded = load(request.model)
        graph = normalise(loaded.proto, gemm=options.include_gemm)
        found = find_sites(graph, options.include, options.exclude, gemm=options.include_gemm)
        sites, skipped = found.sites, found.skipped
        _check_any(sites, skipped, found.unmatched)
        for text in found.unmatched:
            warn(text)
        if loaded.misstated:
            names = sorted(loaded.misstated)
            warn(MISSTATED.format(len(names), ", ".join(names[:3]) + (", …" if len(names) > 3 else "")))
    with _stage("data", clock, progress):
        specs = with_shapes(inputs(loaded.proto), options.input_shapes)
        how = request.parsed_preprocess
        source = open_source(
            request.data, specs, preprocess=how, count=options.images, seed=options.seed, on_warning=warn
        )
        if source.synthetic:
            warn(SYNTHETIC.format(source.description))
        sampling = split(source, specs, options.seed)
        smallest = {name: value.shape for name, value in source.feeds(sampling.single).items()}
        for text in advice(options.preset, opset(loaded.proto), specs, smallest):
            warn(text)
        # Used at the very end, but what is wrong with it is said before the long work.
        labelled = load_labelled(request.test, specs, how, on_warning=warn) if request.test else None
        if labelled:
            check_labelled(labelled, outputs(loaded.proto)[0], sampling)
    with clock.stage("profile"):
        progress("profile", 0, 1)
        shortcuts = [site.join.shortcut for site in sites if site.join]
        macs = measure_macs(graph, sampling, open_session, shortcuts, gemm=options.include_gemm)
        sites, strangers = solvable_sites(sites, macs, options)
        sites = drop_unwanted_joins(sites, macs, options)
        skipped += strangers
        _check_any(sites, skipped)
        again = refittable(graph, found.dense, [site.output for site in sites]) if refits(options) else ()
        linears = one_row_per_sample(again, macs)
        shapes, aimed_at = conv_shapes(sites, macs), sum(macs.aimed_at.values())
        given = Given(how, request.data_label, plan is not None)
    # What cannot be is said before the long work.
    multiple, clocked = 1, None
    if plan:
        plan = plan.fitted(shapes, {skip.name: skip.reason for skip in skipped}, forms)
    else:
        with clock.stage("measure") if options.needs_measurement else contextlib.nullcontext():
            multiple = rank_multiple(sites, macs, sampling, options, progress)
            if options.target == "latency":
                clocked = clock_layers(loaded, sites, shapes, macs, sampling, options, kinds, multiple, progress)
                check_latency_reach(clocked, loaded, sites, sampling, options, kinds)
            else:
                check_speedup(shapes, aimed_at, kinds, options, multiple)
    with clock.stage("profile"):
        targets, needed = {}, needed_preparations(shapes, forms if plan else kinds, plan)
        if options.solver != "weights":
            sizes = {site.name: macs.shapes[site.output][2:] for site in sites}
            rows = options.memory // 2  # the rest is for the activations between two sites
            others = [site for site in linears if site.name not in sizes]
            targets = collect_targets(graph, sites, needed, sizes, rows, sampling, open_session, progress, others)
        else:
            progress("profile", 1, 1)
    with _stage("plan", clock, progress):
        prepared = prepare_kernels(sites, needed, targets)
        by_clock = None
        if plan:
            chosen = plan
        else:
            kept = site_energies(sites, targets, prepared, shapes, kinds)
            if clocked:
                layers_at = partial(layers_to_choose, kept, shapes, multiple)
                chosen, by_clock = choose_by_clock(
                    clocked, loaded, sites, prepared, forms, layers_at, sampling, options
                )
            else:
                chosen = choose(layers_to_choose(kept, shapes, multiple), aimed_at, options)
    return Prepared(
        loaded,
        graph,
        sites,
        linears,
        skipped,
        sampling,
        open_session,
        macs,
        targets,
        forms,
        kinds,
        prepared,
        chosen,
        labelled,
        given,
        clock,
        multiple,
        by_clock,
        timed_batch(sampling, options),
    )


def measure(request: Request, listener: Listener, forms: FormTable) -> Clocked:
    """Measure all that a plan by the clock asks for, without planning; without data, on made-up samples.

    Raises
    ------
    ModelError
        Where there is nothing to factorise.
    """
    options, progress, warn = request.options, listener.progress, listener.warn
    kinds = forms.allowed(options.form)
    check_installation(warn)
    open_session = opener(options.providers, options.threads, spinning=False)
    loaded = load(request.model)
    graph = normalise(loaded.proto)
    found = find_sites(graph, options.include, options.exclude)
    sites, skipped = found.sites, found.skipped
    _check_any(sites, skipped, found.unmatched)
    for text in found.unmatched:
        warn(text)
    specs = with_shapes(inputs(loaded.proto), options.input_shapes)
    how = request.parsed_preprocess
    source = open_source(
        request.data, specs, preprocess=how, count=SAMPLES_TO_MEASURE, seed=options.seed, on_warning=warn
    )
    sampling = split(source, specs, options.seed)
    macs = measure_macs(graph, sampling, open_session, [site.join.shortcut for site in sites if site.join])
    sites, strangers = solvable_sites(sites, macs, options)
    _check_any(sites, (*skipped, *strangers))
    sites, shapes = drop_unwanted_joins(sites, macs, options), conv_shapes(sites, macs)
    multiple = rank_multiple(sites, macs, sampling, options, progress)
    return clock_layers(loaded, sites, shapes, macs, sampling, options, kinds, multiple, progress)


@contextlib.contextmanager
def _stage(name: str, clock: StageTimes, progress: Progress) -> Iterator[None]:
    """Time a stage that has no steps of its own, and report its beginning and its end."""
    progress(name, 0, 1)
    with clock.stage(name):
        yield
    progress(name, 1, 1)


def _check_any(sites: tuple[ConvSite, ...], skipped: tuple[Skip, ...], unmatched: tuple[str, ...] = ()) -> None:
    if not sites:
        raise ModelError(f"nothing to factorise: {'; '.join((*unmatched, why_nothing(skipped)))}")


def why_nothing(skipped: Sequence[Skip]) -> str:
    """Why no convolution is eligible, in one line."""
    if not skipped:
        return "the model has no convolution"
    reasons = Counter(skip.reason for skip in skipped)
    return "; ".join(f"{reason} ({count}×)" for reason, count in reasons.most_common())
