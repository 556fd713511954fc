"""The result of ``--dry-run``."""

from dataclasses import dataclass

from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.report.fit_schema import FitReport
from onnx_lowrank.report.importance_schema import ImportanceReport
from onnx_lowrank.report.latency_schema import LatencyPlanReport
from onnx_lowrank.report.schema import MacsReport, SiteReport, SkippedReport, SpeedupReport
from onnx_lowrank.report.trade_off_schema import TradeOffReport
from onnx_lowrank.report.width_schema import WidthReport


@dataclass(frozen=True)
class PlanReport:
    """The result of ``--dry-run``: the plan, and its costs without any solution. The fields are those of ``Report``."""

    sites: tuple[SiteReport, ...]
    skipped: tuple[SkippedReport, ...]
    macs: MacsReport
    speedup: SpeedupReport
    plan: Plan
    rank_multiple: int = 1
    latency_plan: LatencyPlanReport | None = None
    fit: FitReport | None = None
    importance: ImportanceReport | None = None
    widths: tuple[WidthReport, ...] = ()
    trade_off: TradeOffReport | None = None
