"""A pipeline that is done at once, for the tests of the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import (
    SCHEMA,
    AccuracyReport,
    CostReport,
    FileReport,
    Latency,
    MacsReport,
    OutputReport,
    PlanReport,
    RefittedReport,
    Report,
    SiteReport,
    SkippedReport,
    SpeedupReport,
)

MACS = MacsReport(15_470_264_320, 3_951_000_000, 15_346_630_656, 3_828_000_000)
SITES = (
    SiteReport(
        "conv[0]", None, (3, 3), (3, 64), {}, 86_704_128, 86_704_128, "Relu", None, None, None, True, "left alone"
    ),
    SiteReport(
        *("conv1", "channel", (3, 3), (64, 64), {"d'": 20}, 1_849_688_064, 620_000_000, None, None),
        *(0.0123, 0.0101, False, "nonlinear"),
    ),
)
SKIPPED = (SkippedReport("depthwise", "it has 32 groups"),)
REPORT = Report(
    schema=SCHEMA,
    tool={"name": "onnx-lowrank", "version": "0"},
    input=FileReport("in.onnx", "0", 553_438_000),
    output=FileReport(None, "1", 276_719_000),
    options={},
    data={},
    provider="CPUExecutionProvider",
    seed=0,
    macs=MACS,
    speedup=SpeedupReport(4, 4.0091, Latency(120.4, 45.1, 2.67, 2.6, 2.75, 0.95, 50)),
    parameters=(138_357_544, 128_000_000),
    outputs={"logits": OutputReport(0.00312, 1.25, 0.985), "boxes": OutputReport(0.002, 0.5, None)},
    sites=SITES,
    skipped=SKIPPED,
    refitted=(RefittedReport("head", 0.0124, 0.0093, 10.0, False, "refitted, ridge 10"),),
    accuracy=AccuracyReport(500, 0.712, 0.708),
    cost=CostReport({"total": 1.0}, 2.1, 1, 300, 3000),
    warnings=(),
)
PLAN = Plan((SitePlan("conv[0]", None), SitePlan("conv1", "channel", (20,))))
PLAN_REPORT = PlanReport(SITES, SKIPPED, MACS, SpeedupReport(4, 4.0091, None), PLAN)
ARGUMENTS = ["in.onnx", "out.onnx"]

Install: TypeAlias = Callable[[Callable[..., Any]], None]
"""Puts a function in the place of ``pipeline.compress``."""


class Result:
    """A result that saves a few bytes."""

    report = REPORT

    def save(self, path: Path, external_data: bool | None = None) -> None:
        path.write_bytes(b"external" if external_data else b"inside")


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
