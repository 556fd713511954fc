"""Pipelines for the tests of the command line: one that is done at once, and real ones with disturbances."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from models_for_tests import plain
from numpy.typing import NDArray

from onnx_lowrank.cli.compress import PIPELINE, Pipeline
from onnx_lowrank.interface import Feeds
from onnx_lowrank.pipeline import Result, compress
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.progress import Listener
from onnx_lowrank.report import schema
from onnx_lowrank.report.latency_schema import Latency, MeasuredLayer, MeasuredReport
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.report.plan_schema import PlanReport
from onnx_lowrank.stages.request import Request

T = TypeVar("T")

MACS = schema.MacsReport(15_470_264_320, 3_951_000_000, 15_346_630_656, 3_828_000_000)
SITES = (
    schema.SiteReport(
        "conv[0]", None, (3, 3), (3, 64), {}, 86_704_128, 86_704_128, "Relu", None, None, None, True, "left alone"
    ),
    schema.SiteReport(
        *("conv1", "channel", (3, 3), (64, 64), {"d'": 20}, 1_849_688_064, 620_000_000, None, None),
        *(0.0123, 0.0101, False, "nonlinear"),
    ),
)
SKIPPED = (schema.SkippedReport("depthwise", "it has 32 groups"),)
REPORT = schema.Report(
    schema=schema.SCHEMA,
    tool={"name": "onnx-lowrank", "version": "0"},
    input=schema.FileReport("in.onnx", "0", 553_438_000),
    output=schema.FileReport(None, "1", 276_719_000),
    options={},
    data={},
    provider="CPUExecutionProvider",
    seed=0,
    macs=MACS,
    speedup=schema.SpeedupReport(4, 4.0091, Latency(120.4, 45.1, 2.67, 2.6, 2.75, 0.95, 50)),
    parameters=(138_357_544, 128_000_000),
    outputs={
        "logits": OutputReport(100, 0.00312, 0.0105, 0.0095, 0.0116, 1.25, 0.98, 0.93, 0.9945),
        "boxes": OutputReport(100, 0.002, 0.0042, None, None, 0.5, None, None, None),
    },
    verdict="kept",
    sites=SITES,
    skipped=SKIPPED,
    refitted=(schema.RefittedReport("head", 0.0124, 0.0093, 10.0, False, "refitted, ridge 10"),),
    accuracy=schema.AccuracyReport(500, 0.712, 0.708),
    cost=schema.CostReport({"total": 1.0}, 2.1, 1, 300, 3000),
    warnings=(),
)
PLAN = Plan((SitePlan("conv[0]", None), SitePlan("conv1", "channel", (20,))))
PLAN_REPORT = PlanReport(SITES, SKIPPED, MACS, schema.SpeedupReport(4, 4.0091, None), PLAN)
ARGUMENTS = ["in.onnx", "out.onnx"]

MEASURED = MeasuredReport(
    "a processor", "a processor, 1 thread", 8, 120.4, (MeasuredLayer("conv1", "3×3", 10.5, "cp 20", 4.25, 7),), 7
)


def result(report: schema.Report = REPORT) -> Result:
    """A small model with a report that says something else."""
    return Result(plain(), report, external_data=False)


INSTANT = Pipeline(lambda *_: result(), lambda *_: PLAN_REPORT, lambda *_: MEASURED)
"""A pipeline that succeeds at once."""


def raising(error: BaseException) -> Pipeline:
    """A pipeline that fails at once."""

    def fail(*_: object) -> NoReturn:
        raise error

    return Pipeline(fail, fail, fail)


@dataclass
class Recorder:
    """An instant pipeline that keeps what it was asked for."""

    requests: list[Request] = field(default_factory=list)

    @property
    def pipeline(self) -> Pipeline:
        def record(answer: T) -> Callable[[Request, Listener], T]:
            def run(request: Request, listener: Listener) -> T:
                self.requests.append(request)
                return answer

            return run

        return Pipeline(record(result()), record(PLAN_REPORT), record(MEASURED))


def disturbed(at: str, event: Callable[[], object]) -> Pipeline:
    """The real pipeline, in which something happens after the first step of a stage."""

    def run(request: Request, listener: Listener) -> Result:
        def progress(stage: str, done: int, total: int) -> None:
            listener.progress(stage, done, total)
            if (stage, done) == (at, 1):
                event()

        return compress(request, Listener(progress, listener.warn))

    return replace(PIPELINE, compress=run)


@dataclass
class WatchedSamples:
    """Calibration samples that keep the batches in which they are read."""

    name: str
    values: NDArray[Any]
    batches: list[tuple[int, ...]] = field(default_factory=list)
    description: str = "watched samples"
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def feeds(self, indices: Sequence[int]) -> Feeds:
        self.batches.append(tuple(indices))
        return {self.name: self.values[list(indices)]}

    @property
    def pipeline(self) -> Pipeline:
        """The real pipeline on these samples, whatever data the command line names."""
        return replace(PIPELINE, compress=lambda request, listener: compress(replace(request, data=self), listener))


def files() -> set[str]:
    """What is in the working folder."""
    return {path.name for path in Path().iterdir()}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of every table row by the first one."""
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def contents() -> dict[str, bytes | None]:
    """Return every file and folder below the working one, hidden ones too."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(Path().rglob("*"))}
