"""The results of all stages up to the plan, for the stages that carry it out and report it."""

from dataclasses import dataclass, replace

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
class Prepared:
    """The results of the stages up to the plan, and the shard that holds the samples.

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
    planned: Planned

    def without_profile(self) -> "Prepared":
        """Return the same without the profile, whose rows take up to half of ``--memory``."""
        return replace(self, profiled=Profiled({}, {}))
