"""The results of all stages up to the profile, on which plans rest, and up to the plan, which is carried out."""

from dataclasses import dataclass, fields, replace

from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.graph.network import Network
from onnx_lowrank.report.fit_schema import FitReport
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.plan import Planned
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.sample import Sampled


@dataclass(frozen=True)
class Basis:
    """The results of the stages up to the profile, and the shard that holds the samples.

    ``path`` is the network with its nodes in the order in which the walk passes them.
    """

    read: Read
    sampled: Sampled
    fit: FitReport
    counted: Counted
    reach: Reach
    path: Network
    shard: Shard
    profiled: Profiled

    def with_plan(self, planned: Planned) -> "Prepared":
        """Return the same with a plan."""
        return Prepared(**{field.name: getattr(self, field.name) for field in fields(self)}, planned=planned)


@dataclass(frozen=True)
class Prepared(Basis):
    """The results of the stages up to the plan."""

    planned: Planned

    def without_profile(self) -> "Prepared":
        """Return the same without the profile, whose rows take up to half of ``--memory``."""
        return replace(self, profiled=Profiled({}, {}))
