"""What the stages of a run give one another."""

from dataclasses import dataclass

import onnx

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.data.labels import Labelled
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.factorise.forms.kind import PreparedKernel
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.find.dense import DenseLayer
from onnx_lowrank.graph.find.sites import ConvSite, Skip
from onnx_lowrank.graph.network import Network
from onnx_lowrank.latency.by_clock import LatencyPlan
from onnx_lowrank.plan.plan import Plan, SitePlan
from onnx_lowrank.report.schema import AccuracyReport, Latency, OutputReport
from onnx_lowrank.runtime.session import Opener
from onnx_lowrank.stages.plan import conv_shapes
from onnx_lowrank.stages.profile import Targets
from onnx_lowrank.stages.resources import StageTimes
from onnx_lowrank.stages.walk import Walked


@dataclass(frozen=True)
class Given:
    """What a run was given besides the model and the options.

    Attributes
    ----------
    preprocess
        How photos become inputs.
    data
        The path of the calibration samples, or the name of their type; None where there are none.
    plan
        Whether there was a plan to replay.
    """

    preprocess: Preprocess
    data: str | None
    plan: bool


@dataclass(frozen=True)
class Checked:
    """What is known once the model is rewritten."""

    model: onnx.ModelProto
    walked: Walked
    outputs: dict[str, OutputReport]
    latency: Latency
    accuracy: AccuracyReport | None
    provider: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Prepared:
    """A run up to the plan."""

    loaded: LoadedModel
    graph: Network
    sites: tuple[ConvSite, ...]
    linears: tuple[DenseLayer, ...]
    skipped: tuple[Skip, ...]
    sampling: Sampling
    open_session: Opener
    macs: Macs
    targets: dict[str, Targets]
    forms: FormTable
    kinds: FormTable
    prepared: dict[str, tuple[PreparedKernel, ...]]
    plan: Plan
    labelled: Labelled | None
    given: Given
    clock: StageTimes
    multiple: int
    by_clock: LatencyPlan | None
    timed_batch: tuple[int, ...]

    @property
    def costs(self) -> dict[str, tuple[int, int]]:
        """(MACs before, MACs planned) by site name."""
        shapes = conv_shapes(self.sites, self.macs)

        def after(choice: SitePlan) -> int:
            shape = shapes[choice.name]
            return self.forms[choice.form].cost(shape, choice.ranks) if choice.form else shape.macs

        return {s.name: (shapes[s.name].macs, after(s)) for s in self.plan.sites}
