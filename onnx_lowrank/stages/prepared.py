"""The results of all stages up to the profile, on which plans rest, and up to the plan, which is carried out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.shard import Shard
from onnx_lowrank.graph.network import Network
from onnx_lowrank.report.fit_schema import FitReport
from onnx_lowrank.report.trade_off_schema import TradeOffReport
from onnx_lowrank.stages.count import Counted
from onnx_lowrank.stages.planned import Planned
from onnx_lowrank.stages.profile import Profiled
from onnx_lowrank.stages.reach import Reach
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.sample import Sampled
from onnx_lowrank.stages.widths import NO_WIDTHS, Widths

Indices = NDArray[np.intp]


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
    widths: Widths = NO_WIDTHS

    def with_plan(self, planned: Planned) -> "Prepared":
        """Return the same with a plan."""
        return Prepared(**{each.name: getattr(self, each.name) for each in fields(Basis)}, planned=planned)


@dataclass(frozen=True)
class Prepared(Basis):
    """The results of the stages up to the plan.

    Attributes
    ----------
    planned
        The plan.
    wide
        The layers of the original where channels have been taken out of the network, so that everything else describes
        the narrow one; None where all channels stay.
    wide_path
        The original with its nodes in the order of the walk, where channels have been taken out of ``path``.
    stay
        The channels that stay, by the outputs of the layers that make them, where channels have been taken out.
    trade_off
        The models that were solved before one was chosen; None where there was no choice.
    """

    planned: Planned = field(kw_only=True)
    wide: Counted | None = field(default=None, kw_only=True)
    wide_path: Network | None = field(default=None, kw_only=True)
    stay: Mapping[str, Indices] = field(default_factory=dict, kw_only=True)
    trade_off: TradeOffReport | None = field(default=None, kw_only=True)

    @property
    def original(self) -> Counted:
        """The layers of the original."""
        return self.wide or self.counted

    @property
    def wide_network(self) -> Network:
        """The original, with all its channels."""
        return self.wide_path or self.path

    @property
    def macs_left(self) -> int:
        """The MACs that are left, as planned, of those that the speedup is about."""
        saved = sum(shape.macs - self.planned.macs[name] for name, shape in self.counted.shapes.items())
        return sum(self.counted.macs.aimed_at.values()) - saved

    @property
    def target_bytes(self) -> int:
        """The number of bytes that the original's responses take."""
        return sum(target.rows.nbytes for target in self.profiled.targets.values())

    def without_profile(self) -> "Prepared":
        """Return the same without the profile, whose rows take up to half of ``--memory``."""
        return replace(self, profiled=Profiled({}, {}))
