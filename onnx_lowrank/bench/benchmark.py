"""Models on the stopwatch, in turns: every number of threads, every batch, all models in one process."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from onnx_lowrank._version import __version__
from onnx_lowrank.bench.node_times import breakdown, elsewhere
from onnx_lowrank.bench.turns import Budget, Rounds, take_turns
from onnx_lowrank.data.input_shapes import Shapes, with_shapes
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import Preprocess, parse
from onnx_lowrank.data.synthetic.noise import batch_of, made_input
from onnx_lowrank.errors import UsageError
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.options import MOST_THREADS
from onnx_lowrank.progress import Progress, silent
from onnx_lowrank.report.bench_schema import (
    SCHEMA,
    BenchModel,
    BenchReport,
    Measurement,
    ModelProfile,
    ModelTime,
    NodeShare,
)
from onnx_lowrank.runtime.providers import (
    CPU,
    check_installation,
    device_name,
    provider_names,
    runtime_version,
)
from onnx_lowrank.runtime.session import (
    Session,
    trace,
)

BUDGET = Budget(rounds=100, seconds=10)
"""For each number of threads and each batch."""

TRACE_WARMUP, TRACE_RUNS = 3, 20


@dataclass(frozen=True)
class Settings:
    """What is measured, and how.

    Attributes
    ----------
    threads
        Numbers of threads of ONNX Runtime; 0 leaves it to the runtime.
    batches
        Numbers of samples in a run; none: the one that the models demand, or 1.
    shapes
        Of the inputs, where the models leave them open.
    providers
        As in ``Options``.
    budget
        For each number of threads and each batch.
    profile
        How many nodes of every model are listed; 0: nothing is profiled.
    seed
        Of the order of the runs and of the inputs that are made up.
    """

    threads: tuple[int, ...] = (0,)
    batches: tuple[int, ...] = ()
    shapes: Shapes | None = None
    providers: tuple[str, ...] = ("cpu",)
    budget: Budget = BUDGET
    profile: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.threads or min(self.threads) < 0 or max(self.threads) > MOST_THREADS:
            raise UsageError(
                "threads: give numbers of at least 0 (the runtime's own choice), such as 1,2, and up to 4096"
            )
        if self.batches and min(self.batches) < 1:
            raise UsageError("batch: give numbers of at least 1, such as 1,8")
        if not self.providers:
            raise UsageError("providers is empty: name at least one, for example cpu")
        if self.profile < 0:
            raise UsageError(f"profile is {self.profile}: give the number of nodes to list")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}: give a number of at least 0")


@dataclass(frozen=True)
class _Model:
    path: Path
    specs: tuple[TensorSpec, ...]
    report: BenchModel


def benchmark(
    models: Sequence[str | Path],
    data: object = None,
    *,
    settings: Settings | None = None,
    preprocess: Preprocess | str = "imagenet",
    progress: Progress = silent,
    warn: Callable[[str], None] = lambda text: None,
) -> BenchReport:
    """Measure models against the first of them.

    Parameters
    ----------
    models
        Paths.
    data
        Samples to run them on, as for ``compress``; None for made-up ones.
    settings
        What is measured.
    preprocess
        How photos become inputs.
    progress, warn
        Receive progress and warnings.

    Raises
    ------
    LowRankError
        The subclass says what kind of thing is wrong; see ``errors``.
    """
    if not models:
        raise UsageError("there is no model to measure: give at least one")
    settings, warnings = settings or Settings(), list[str]()

    def note(text: str) -> None:
        warnings.append(text)
        warn(text)

    check_installation(note)
    names = provider_names(settings.providers)
    how = parse(preprocess) if isinstance(preprocess, str) else preprocess
    opened = [_open(Path(model), settings) for model in models]
    _check_names(opened, settings.shapes or {})
    batches = settings.batches or (next((b for m in opened if (b := batch_of(m.specs))), 1),)
    feeds = {b: [_feeds(m, b, max(batches), data, how, settings.seed, note) for m in opened] for b in batches}
    first = batches[0]
    if names[0] != CPU:
        opened = [_placed(m, names, feeds[first][i][0], settings, note) for i, m in enumerate(opened)]
    measurements, total = [], len(settings.threads) * len(batches)
    progress("measure", 0, total)
    for threads in settings.threads:
        sessions = [Session(str(m.path), names, threads, str(m.path)) for m in opened]
        for batch in batches:
            runs = [_run(s, made) for s, (made, _) in zip(sessions, feeds[batch], strict=True)]
            times = take_turns(runs, settings.budget, settings.seed)
            profiles = [
                _profile(m, names, threads, made, times.median(i), settings.profile)
                for i, (m, (made, _)) in enumerate(zip(opened, feeds[batch], strict=True))
                if settings.profile
            ]
            measurements.append(_measurement(threads, batch, times, profiles))
            if not times.settled:
                note(
                    f"with {threads or 'the default number of'} threads and batch {batch} the warm-up ended before the "
                    "times had settled: give more --seconds, or a machine that does nothing else"
                )
            progress("measure", len(measurements), total)
    return BenchReport(
        schema=SCHEMA,
        tool={"name": "onnx-lowrank-bench", "version": __version__},
        runtime=runtime_version(),
        device=device_name(names[0]),
        provider=names[0],
        options=asdict(settings),
        data="; ".join(dict.fromkeys(told for _, told in feeds[first])),
        models=tuple(m.report for m in opened),
        measurements=tuple(measurements),
        warnings=tuple(warnings),
    )


def _open(path: Path, settings: Settings) -> _Model:
    loaded = load(path)
    own = inputs(loaded.proto)
    names = {"", *(spec.name for spec in own)}  # the other models may have other inputs
    specs = with_shapes(own, {name: shape for name, shape in (settings.shapes or {}).items() if name in names})
    if settings.batches:  # a first dimension that is open is the batch, whatever stands there in a given shape
        specs = tuple(
            replace(spec, shape=(was.shape[0], *spec.shape[1:]))
            if was.shape and spec.shape and not isinstance(was.shape[0], int)
            else spec
            for was, spec in zip(own, specs, strict=True)
        )
    return _Model(path, specs, BenchModel(str(path), loaded.sha256, loaded.bytes, None))


def _check_names(models: Sequence[_Model], shapes: Shapes) -> None:
    known = {spec.name for model in models for spec in model.specs}
    for name in shapes:
        if name and name not in known:
            raise UsageError(f"--input-shapes names {name!r}: the inputs are {', '.join(sorted(known))}")


def _feeds(
    model: _Model, batch: int, most: int, data: object, how: Preprocess, seed: int, warn: Callable[[str], None]
) -> tuple[Feeds, str]:
    """One batch for a model, and what it is."""
    demanded = batch_of(model.specs)
    if demanded not in (None, batch):
        raise UsageError(f"{model.path} takes batches of {demanded}, not {batch}: drop --batch, or leave the model out")
    if data is None:
        return made_input(model.specs, batch, seed, str(model.path)), "made up"
    source = open_source(data, model.specs, preprocess=how, count=most, seed=seed, on_warning=warn)
    return source.feeds([i % len(source) for i in range(batch)]), source.description


def _run(session: Session, feeds: Feeds) -> Callable[[], object]:
    return lambda: session(feeds)


def _placed(
    model: _Model, names: tuple[str, ...], feeds: Feeds, settings: Settings, note: Callable[[str], None]
) -> _Model:
    """The model with the providers that run its nodes."""
    events = trace(str(model.path), names, settings.threads[0], str(model.path), feeds, 1)
    counts = breakdown(events).providers
    if text := elsewhere(counts, names[0]):
        note(f"{model.path}: {text}")
    return replace(model, report=replace(model.report, nodes=counts))


def _profile(
    model: _Model, names: tuple[str, ...], threads: int, feeds: Feeds, seconds: float, count: int
) -> ModelProfile:
    # A second or so, but a few runs in any case.
    runs = TRACE_WARMUP + max(3, min(TRACE_RUNS, int(1 / max(seconds, 1e-6))))
    found = breakdown(trace(str(model.path), names, threads, str(model.path), feeds, runs), TRACE_WARMUP)

    def share(name: str | None, op: str, nodes: int, provider: str | None, seconds: float) -> NodeShare:
        return NodeShare(name, op, nodes, provider, _ms(seconds), round(seconds / found.seconds, 4))

    return ModelProfile(
        _ms(found.seconds),
        tuple(share(x.name, x.op, 1, x.provider, x.seconds) for x in found.costliest(count)),
        tuple(share(None, x.op, x.nodes, None, x.seconds) for x in found.operators),
    )


def _measurement(threads: int, batch: int, times: Rounds, profiles: Sequence[ModelProfile]) -> Measurement:
    return Measurement(
        threads=threads,
        batch=batch,
        warmup_rounds=times.warmup,
        settled=times.settled,
        rounds=len(times.seconds),
        models=tuple(_time(times, i) for i in range(times.seconds.shape[1])),
        profiles=tuple(profiles),
    )


def _time(times: Rounds, i: int) -> ModelTime:
    low, high = times.quartiles(i)
    speed = times.speed(i)
    bounds = (round(value, 4) for value in (speed.value, speed.low, speed.high, speed.confidence))
    return ModelTime(_ms(times.median(i)), (_ms(low), _ms(high)), *bounds)


def _ms(seconds: float) -> float:
    return round(1e3 * seconds, 4)
