"""The models beside which a result in integers is timed: what low rank gives alone, and what integers give alone."""

import onnx

from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.quantise.stand_in import stand_in
from onnx_lowrank.stages.integer_target import integer_target, rounds_alone
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.walk import Walked

LOW_RANK, INTEGERS = "low rank", "int8"


def variants(run: Run, prepared: Prepared, walked: Walked) -> dict[str, onnx.ModelProto]:
    """Return the models, by name; none where nothing was rounded, or where that is all that happened.

    Nobody has rounded the original itself with care, so a model that takes as long stands in for it.
    """
    if walked.integers is None or rounds_alone(run.options):
        return {}
    target, original = integer_target(run.options.preset), prepared.wide_network
    alone = stand_in(original, target.placement, target.codes, run.options.exclude)
    loaded = prepared.read.loaded
    return {LOW_RANK: export(walked.integers.exact, loaded), INTEGERS: export(alone, loaded)}
