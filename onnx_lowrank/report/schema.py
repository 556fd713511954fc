"""What a run did, as data: the versioned JSON report (schema 1) is exactly these classes, field by field.

Relative errors are Σ(out − ref)² / Σ ref² over samples that no solver saw. Costs are multiply-accumulates (MACs) of one
sample.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from onnx_lowrank.plan.plan import Plan

SCHEMA = 1


@dataclass(frozen=True)
class FileReport:
    """A model file; ``path`` and ``sha256`` are None while it exists in memory only."""

    path: str | None
    sha256: str | None
    bytes: int


@dataclass(frozen=True)
class MacsReport:
    """Before and after: of all counted operations (Conv, ConvTranspose, Gemm, MatMul), and of the Convs alone.

    ``gemm_before`` and ``gemm_after`` are of the fully connected layers, where these were to be factorised; else 0.
    """

    before: int
    after: int
    conv_before: int
    conv_after: int
    gemm_before: int = 0
    gemm_after: int = 0

    @property
    def speedup(self) -> float:
        """The ratio that was aimed at."""
        return (self.conv_before + self.gemm_before) / (self.conv_after + self.gemm_after)


@dataclass(frozen=True)
class Latency:
    """Median milliseconds of a run with ``batch`` samples, both models in turns.

    ``ratio`` is the median over the ``rounds`` of the original's time over the new one's in the same round; the true
    one lies between ``ratio_low`` and ``ratio_high`` with a probability of ``confidence``.
    """

    before_ms: float
    after_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float
    rounds: int
    batch: int = 1


@dataclass(frozen=True)
class SpeedupReport:
    """The MACs ratio reached, and the clock's.

    The MACs are those of convolutions, with ``include_gemm`` also of fully connected layers. ``requested``, of the
    ``target`` among the options, is None where a plan was given in its place. The clock's is one short measurement of
    the result, informative where the target is "macs".
    """

    requested: float | None
    macs: float
    latency: Latency | None


@dataclass(frozen=True)
class LatencyPlanReport:
    """How a plan by the clock came about: milliseconds of a run.

    ``device``, ``onnxruntime``, ``threads`` and ``batch`` say where and how was measured. ``before_ms`` is the
    original's time; the layers' measured times predict ``from_layers_ms`` for the plan, before any is measured.
    ``trial_ms`` and ``trial_ratio`` are the whole model's, with these ranks but weights that nobody solved for, after
    ``rounds`` such trials, and None where the plan is for another device. ``predicted_ms`` and ``predicted_ratio`` are
    what is said of the result: the trial's, or what was expected where there was none. ``correction`` is the share of
    what the layers promise to save that the trial showed. ``measurements`` counts what was not yet in the table.
    """

    device: str
    onnxruntime: str
    threads: int
    batch: int
    before_ms: float
    from_layers_ms: float
    trial_ms: float | None
    trial_ratio: float | None
    predicted_ms: float
    predicted_ratio: float
    correction: float
    rounds: int
    measurements: int


@dataclass(frozen=True)
class OutputReport:
    """One output of the model against the original's; ``top1_agreement`` where it looks like class scores."""

    relative_error: float
    max_abs_error: float
    top1_agreement: float | None


@dataclass(frozen=True)
class SiteReport:
    """One eligible convolution or, with ``include_gemm``, fully connected layer.

    ``kernel`` has a size for each spatial axis, so none for a fully connected layer; ``ranks`` are those of one of the
    ``group`` groups.
    ``activation`` is what the response goes through next, or its sum with ``shortcut``, the tensor that is added to it.
    ``error_linear`` and ``error_nonlinear`` are relative errors behind the activation on held-out samples, of the
    best linear and the best nonlinear solution; None where that was not solved. ``kept`` is true where the original
    convolution stays, for ``reason``; for a factorised one ``reason`` says which solution won. ``ms_before`` and
    ``ms_after`` are the layer's own measured milliseconds where the plan is by the clock.
    """

    name: str
    form: str | None
    kernel: tuple[int, ...]
    channels: tuple[int, int]
    ranks: dict[str, int]
    macs_before: int
    macs_after: int
    activation: str | None
    shortcut: str | None
    error_linear: float | None
    error_nonlinear: float | None
    kept: bool
    reason: str
    group: int = 1
    ms_before: float | None = None
    ms_after: float | None = None


@dataclass(frozen=True)
class RefittedReport:
    """One fully connected layer that could be fitted again.

    ``error_before`` and ``error_after`` are relative errors of its responses on held-out samples; None where it was not
    tried. ``ridge`` is None where the bias alone was changed, or nothing. ``kept`` is true where the original weights
    stay, for ``reason``.
    """

    name: str
    error_before: float | None
    error_after: float | None
    ridge: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class SkippedReport:
    """A convolution that is not eligible."""

    name: str
    reason: str


@dataclass(frozen=True)
class CostReport:
    """What the run cost.

    ``seconds`` by stage; ``forward_passes`` are the MACs executed for calibration over (samples × the model's MACs).
    """

    seconds: dict[str, float]
    forward_passes: float
    peak_rss_bytes: int
    images: int
    rows_per_site: int


@dataclass(frozen=True)
class AccuracyReport:
    """Top-1 on labelled samples, where the user gave some."""

    samples: int
    before: float
    after: float


@dataclass(frozen=True)
class Report:
    """Everything about one run."""

    schema: int
    tool: dict[str, str]
    input: FileReport
    output: FileReport
    options: dict[str, Any]
    data: dict[str, Any]
    provider: str
    seed: int
    macs: MacsReport
    speedup: SpeedupReport
    parameters: tuple[int, int]
    outputs: dict[str, OutputReport]
    sites: tuple[SiteReport, ...]
    skipped: tuple[SkippedReport, ...]
    refitted: tuple[RefittedReport, ...]
    accuracy: AccuracyReport | None
    cost: CostReport
    warnings: tuple[str, ...]
    rank_multiple: int = 1
    latency_plan: LatencyPlanReport | None = None

    def to_json(self) -> str:
        """The report as JSON text, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


@dataclass(frozen=True)
class PlanReport:
    """What a run would do: the answer to ``--dry-run``."""

    sites: tuple[SiteReport, ...]
    skipped: tuple[SkippedReport, ...]
    macs: MacsReport
    speedup: SpeedupReport
    plan: Plan
    rank_multiple: int = 1
    latency_plan: LatencyPlanReport | None = None


@dataclass(frozen=True)
class MeasuredLayer:
    """One convolution on the stopwatch: milliseconds as it is, and in its fastest form of ``points`` measured ones."""

    name: str
    geometry: str
    ms: float
    fastest: str
    fastest_ms: float
    points: int


@dataclass(frozen=True)
class MeasuredReport:
    """What a latency table knows of a model: the answer to ``--measure-latency``."""

    device: str
    setting: str
    rank_multiple: int
    model_ms: float
    layers: tuple[MeasuredLayer, ...]
    measurements: int
