"""A benchmark: models in turns on the stopwatch, with every number of threads and every batch, all in one process."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from onnx_lowrank._version import __version__
from onnx_lowrank.bench.node_times import breakdown, elsewhere
from onnx_lowrank.bench.subject import Inputs, Subject, open_subjects
from onnx_lowrank.bench.turns import Budget, Rounds, run_in_turns
from onnx_lowrank.data.input_shapes import Shapes
from onnx_lowrank.data.photos.preprocess import Preprocess, parse
from onnx_lowrank.errors import UsageError
from onnx_lowrank.interface import Feeds
from onnx_lowrank.options import MOST_THREADS
from onnx_lowrank.progress import Progress, silent
from onnx_lowrank.report.bench_schema import (
    SCHEMA,
    BenchReport,
    Measurement,
    ModelProfile,
    ModelTime,
    NodeShare,
)
from onnx_lowrank.runtime.providers import CPU, check_installation, device_name, provider_names, runtime_version
from onnx_lowrank.runtime.session import Session, trace

BUDGET = Budget(rounds=100, seconds=10)
"""The rounds for each number of threads and each batch."""

TRACE_WARMUP, TRACE_LEAST, TRACE_MOST = 3, 3, 20
"""A profile is taken of so many runs that do not count, and of so few and so many that do."""

TRACE_SECONDS = 1.0
"""The runs that count in a profile last about this long."""


@dataclass(frozen=True)
class Settings:
    """What a benchmark measures, and how.

    Attributes
    ----------
    threads
        Numbers of ONNX Runtime's threads; 0 leaves the number to the runtime.
    batches
        Numbers of samples in a run; empty for the number that the models demand, or 1.
    shapes
        The shapes of inputs that the models leave open.
    providers
        As in ``Options``.
    budget
        The rounds for each number of threads and each batch.
    profile
        The number of nodes of each model that are listed; 0 where nothing is profiled.
    seed
        The seed of the order of the runs and of inputs that are made up.

    Raises
    ------
    UsageError
        If a number is out of range, or a list is empty.
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
        Samples to run the models on, as for ``compress``; None for inputs that are made up.
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
    providers = provider_names(settings.providers)
    preprocess = parse(preprocess) if isinstance(preprocess, str) else preprocess
    subjects = open_subjects(models, settings.shapes or {}, batches_given=bool(settings.batches))
    batches = settings.batches or (next((subject.batch for subject in subjects if subject.batch), 1),)
    inputs = Inputs(data, preprocess, max(batches), settings.seed, note)
    samples = {batch: [inputs.batch(subject, batch) for subject in subjects] for batch in batches}
    feeds = {batch: [of_subject for of_subject, _ in pairs] for batch, pairs in samples.items()}
    bench = _Bench(subjects, feeds, providers, settings)
    bench = replace(bench, subjects=bench.placed(note))
    measurements = bench.measure_all(progress, note)
    return BenchReport(
        schema=SCHEMA,
        tool={"name": "onnx-lowrank-bench", "version": __version__},
        runtime=runtime_version(),
        device=device_name(providers[0]),
        provider=providers[0],
        options=asdict(settings),
        data="; ".join(dict.fromkeys(description for _, description in samples[batches[0]])),
        models=tuple(subject.report for subject in bench.subjects),
        measurements=measurements,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True)
class _Bench:
    """The subjects and what they run on; ``feeds`` holds one batch for each subject, by the number of samples."""

    subjects: tuple[Subject, ...]
    feeds: Mapping[int, Sequence[Feeds]]
    providers: tuple[str, ...]
    settings: Settings

    def measure_all(self, progress: Progress, note: Callable[[str], None]) -> tuple[Measurement, ...]:
        """Measure with every number of threads and every batch."""
        measurements, total = list[Measurement](), len(self.settings.threads) * len(self.feeds)
        progress("measure", 0, total)
        for threads in self.settings.threads:
            paths = [str(subject.path) for subject in self.subjects]
            sessions = [Session(path, self.providers, threads, path) for path in paths]
            for batch in self.feeds:
                measurements.append(self.measure(sessions, threads, batch))
                if not measurements[-1].settled:
                    note(
                        f"with {threads or 'the default number of'} threads and batch {batch} the warm-up ended before "
                        "the times had settled: give more --seconds, or a machine that does nothing else"
                    )
                progress("measure", len(measurements), total)
        return tuple(measurements)

    def measure(self, sessions: Sequence[Session], threads: int, batch: int) -> Measurement:
        """Measure all subjects in turns, and profile them if the settings ask for it."""
        settings, subjects = self.settings, range(len(self.subjects))
        rounds = run_in_turns(sessions, self.feeds[batch], settings.budget, settings.seed)
        return Measurement(
            threads=threads,
            batch=batch,
            warmup_rounds=rounds.warmup,
            settled=rounds.settled,
            rounds=len(rounds.seconds),
            models=tuple(_model_time(rounds, i) for i in subjects),
            profiles=tuple(self.profile(i, threads, batch, rounds.median(i)) for i in subjects if settings.profile),
        )

    def profile(self, i: int, threads: int, batch: int, seconds: float) -> ModelProfile:
        """Profile one subject, a run of which takes so many seconds."""
        runs = TRACE_WARMUP + max(TRACE_LEAST, min(TRACE_MOST, int(TRACE_SECONDS / max(seconds, 1e-6))))
        path = str(self.subjects[i].path)
        times = breakdown(trace(path, self.providers, threads, path, self.feeds[batch][i], runs), TRACE_WARMUP)

        def share(name: str | None, op: str, nodes: int, provider: str | None, seconds: float) -> NodeShare:
            return NodeShare(name, op, nodes, provider, _milliseconds(seconds), round(seconds / times.seconds, 4))

        return ModelProfile(
            _milliseconds(times.seconds),
            tuple(share(x.name, x.op, 1, x.provider, x.seconds) for x in times.costliest(self.settings.profile)),
            tuple(share(None, x.op, x.nodes, None, x.seconds) for x in times.operators),
        )

    def placed(self, note: Callable[[str], None]) -> tuple[Subject, ...]:
        """Return the subjects with the providers that run their nodes; note where it is not the one asked for.

        On the CPU all nodes run, so nothing is looked up.
        """
        if self.providers[0] == CPU:
            return self.subjects
        placed = []
        for subject, feeds in zip(self.subjects, next(iter(self.feeds.values())), strict=True):
            path = str(subject.path)
            nodes = breakdown(trace(path, self.providers, self.settings.threads[0], path, feeds, 1)).providers
            if text := elsewhere(nodes, self.providers[0]):
                note(f"{path}: {text}")
            placed.append(replace(subject, report=replace(subject.report, nodes=nodes)))
        return tuple(placed)


def _model_time(rounds: Rounds, i: int) -> ModelTime:
    low, high = rounds.quartiles(i)
    speed = rounds.speed(i)
    bounds = (round(value, 4) for value in (speed.value, speed.low, speed.high, speed.confidence))
    return ModelTime(_milliseconds(rounds.median(i)), (_milliseconds(low), _milliseconds(high)), *bounds)


def _milliseconds(seconds: float) -> float:
    return round(1e3 * seconds, 4)
