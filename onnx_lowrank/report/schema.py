"""The report of a run: the JSON of ``--report`` (schema 1) consists of these classes, field by field.

A relative error is Σ(out − ref)² / Σ ref². That of an output is measured on samples that no solver saw and that chose
nothing. Costs are multiply-accumulates (MACs) for one sample.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from onnx_lowrank.report.fit_schema import FitReport
from onnx_lowrank.report.importance_schema import ImportanceReport
from onnx_lowrank.report.integers_schema import IntegersReport
from onnx_lowrank.report.latency_schema import Latency, LatencyPlanReport
from onnx_lowrank.report.output_schema import AccuracyReport as AccuracyReport
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.report.refined_schema import RefinedReport
from onnx_lowrank.report.task_schema import LabelledReport, TaskReport
from onnx_lowrank.report.trade_off_schema import TradeOffReport
from onnx_lowrank.report.width_schema import WidthReport

SCHEMA = 1
"""The version of the report, which rises when the meaning of a field changes. New fields leave it as it is."""


@dataclass(frozen=True)
class FileReport:
    """A model file.

    Attributes
    ----------
    path, sha256
        The place and the hash of the file; None while the model exists in memory only.
    bytes
        The size of the serialised model.
    """

    path: str | None
    sha256: str | None
    bytes: int


@dataclass(frozen=True)
class MacsReport:
    """Multiply-accumulates before and after.

    Attributes
    ----------
    before, after
        The MACs of all counted operators: Conv, ConvTranspose, Gemm and MatMul.
    conv_before, conv_after
        The MACs of Conv only.
    gemm_before, gemm_after
        The MACs of the fully connected layers if the run was to factorise them, otherwise 0.
    """

    before: int
    after: int
    conv_before: int
    conv_after: int
    gemm_before: int = 0
    gemm_after: int = 0

    @property
    def speedup(self) -> float:
        """The ratio of the MACs that the run was to reduce."""
        return (self.conv_before + self.gemm_before) / (self.conv_after + self.gemm_after)


@dataclass(frozen=True)
class SpeedupReport:
    """The requested speedup and what the result reaches.

    Attributes
    ----------
    requested
        The option ``speedup``, in terms of the option ``target``; None if a plan was given in its place.
    macs
        The ratio of the MACs of convolutions, and with ``include_gemm`` of fully connected layers among them.
    latency
        A short measurement of the result, which serves as information if the target is "macs".
    """

    requested: float | None
    macs: float
    latency: Latency | None


@dataclass(frozen=True)
class SiteReport:
    """One eligible convolution or, with ``include_gemm``, fully connected layer.

    Attributes
    ----------
    name
        The name of its node.
    form
        The form of the chain that replaces it; None if it is left alone.
    kernel
        The size of the kernel along each spatial axis; empty for a fully connected layer.
    channels
        The numbers of input and output channels.
    ranks
        The ranks of one group, by their names in the paper.
    macs_before, macs_after
        The MACs of the layer and of the chain.
    activation
        The activation behind the layer, or behind its sum with the shortcut.
    shortcut
        The tensor that is added to its response.
    error_linear, error_nonlinear
        The relative errors behind the activation, on held-out samples, of the best linear and the best nonlinear
        solution; None for one that was not computed.
    kept
        Whether the original layer stays.
    reason
        The reason why it stays, or the solution that was chosen.
    group
        The number of groups.
    ms_before, ms_after
        The measured times of the layer and of the chain in milliseconds, if the target is the latency.
    transposed
        Whether the convolution is a ConvTranspose.
    shares_weight_with
        The other eligible layers that read the same weight, and get the same factors. The errors are those over all of
        them.
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
    transposed: bool = False
    shares_weight_with: tuple[str, ...] = ()


@dataclass(frozen=True)
class RefittedReport:
    """One fully connected layer that could be fitted again.

    Attributes
    ----------
    name
        The name of its node.
    error_before, error_after
        The relative errors of its responses on held-out samples; None if no fit was attempted.
    ridge
        The weight of the penalty on changes of the weights; None if only the bias changed, or nothing.
    kept
        Whether the original weights stay.
    reason
        The reason why they stay, or the fit that was chosen.
    """

    name: str
    error_before: float | None
    error_after: float | None
    ridge: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class SkippedReport:
    """A convolution or fully connected layer that is not eligible, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class CostReport:
    """The resources that the run took.

    Attributes
    ----------
    seconds
        The time of every stage, and of the whole run as "total".
    forward_passes
        The MACs executed for calibration, divided by those of one pass of the original over the calibration samples.
    peak_rss_bytes
        The most memory that the process held.
    images
        The number of samples.
    rows_per_site
        The most rows on which a layer was solved.
    """

    seconds: dict[str, float]
    forward_passes: float
    peak_rss_bytes: int
    images: int
    rows_per_site: int


@dataclass(frozen=True)
class Report:
    """Everything about one run.

    Attributes
    ----------
    schema, tool
        The version of the report, and the name and version of the program.
    input, output
        The files of the original and of the rewritten model; ``output`` is None where the result was refused.
    options
        The options, and how the run was given its data, preprocessing and plan.
    data
        A description of the calibration samples, and the numbers of those that were solved on and withheld.
    provider
        The ONNX Runtime execution provider.
    seed
        The seed for all random choices.
    macs, speedup, parameters
        The costs before and after, and the speedup; ``parameters`` are the numbers of stored weights.
    outputs
        The errors of the model's outputs by their names.
    verdict
        "kept", "degraded", "damaged" or "ruined", by the largest centred error of the outputs (see ``quality``); None
        where no output could be compared.
    sites, skipped, refitted
        The eligible layers, those that are not eligible, and the fully connected layers that could be fitted again.
    accuracy
        The accuracy on samples with labelled classes; None without such samples.
    cost
        The resources that the run took.
    warnings
        The warnings of the run.
    rank_multiple
        The number that divides every rank.
    latency_plan
        The measurements behind the plan, if the target is the latency.
    fit
        What the inputs were fed, and how well that fits what the network was trained on.
    importance
        How the plan weighed the layers; None where they all weighed the same from the start.
    widths
        The sets of channels that could become fewer, in the order of the network.
    tasks
        What the outputs are for, and how well the result does that; empty where nothing is sure.
    labelled
        How well both models do that on samples with labelled boxes or masks; None without such samples.
    trade_off
        The models that were solved with ``keep`` or ``curve``; None without.
    refined
        The neighbouring layers that were refined together.
    integers
        The layers in integers; None without ``quantize``.
    """

    schema: int
    tool: dict[str, str]
    input: FileReport
    output: FileReport | None
    options: dict[str, Any]
    data: dict[str, Any]
    provider: str
    seed: int
    macs: MacsReport
    speedup: SpeedupReport
    parameters: tuple[int, int]
    outputs: dict[str, OutputReport]
    verdict: str | None
    sites: tuple[SiteReport, ...]
    skipped: tuple[SkippedReport, ...]
    refitted: tuple[RefittedReport, ...]
    accuracy: AccuracyReport | None
    cost: CostReport
    warnings: tuple[str, ...]
    rank_multiple: int = 1
    latency_plan: LatencyPlanReport | None = None
    fit: FitReport | None = None
    importance: ImportanceReport | None = None
    widths: tuple[WidthReport, ...] = ()
    tasks: tuple[TaskReport, ...] = ()
    labelled: LabelledReport | None = None
    trade_off: TradeOffReport | None = None
    refined: tuple[RefinedReport, ...] = ()
    integers: IntegersReport | None = None

    def to_json(self) -> str:
        """Return the report as JSON text, with the keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"
