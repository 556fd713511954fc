"""The models beside which a result in integers is timed: what low rank gives alone, and what integers give alone."""

import onnx

from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.quantise.stand_in import stand_in
from onnx_lowrank.graph.quantise.target import integer_target
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.walk import Walked

LOW_RANK, INTEGERS = "low rank", "int8"


def variants(run: Run, prepared: Prepared, walked: Walked) -> dict[str, onnx.ModelProto]:
    """Return the models, by name; none where nothing was rounded, or nothing else happened.

    Nobody has rounded the original itself with care, so a model that takes as long stands in for it.
    """
    plan = prepared.planned.plan
    if walked.integers is None or not (plan.widths or any(site.form for site in plan.sites)):
        return {}
    target, original = integer_target(run.options.preset), prepared.wide_network
    alone = stand_in(original, target.placement, target.codes, run.options.exclude)
    loaded = prepared.read.loaded
    return {LOW_RANK: export(walked.integers.exact, loaded), INTEGERS: export(alone, loaded)}
