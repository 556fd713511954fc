"""The stage that turns the rewritten network into a model and checks its promises before it runs."""

import onnx

from onnx_lowrank.calibration.macs import measure_macs
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.network import Network
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run


def check(run: Run, prepared: Prepared, network: Network) -> onnx.ModelProto:
    """Turn the rewritten network into a model; check its interface, and that it is valid ONNX.

    Raises
    ------
    ValidationError
        If a check fails.
    """
    with run.stage("validate"):
        model = export(network, prepared.read.loaded)
        validate(model, prepared.read.loaded.proto)
    return model


def check_costs(run: Run, prepared: Prepared, network: Network) -> None:
    """Count the MACs of the rewritten network as those of the original were counted, and compare them with the plan.

    Only the sites are compared. How often other convolutions run may depend on the values that the sites make, as in a
    detector that looks at regions.

    Raises
    ------
    ValidationError
        If they differ.
    """
    counted, planned = prepared.counted, prepared.planned.macs
    with run.times.stage("validate"):
        after = measure_macs(
            network, prepared.sampled.sampling, run.open_session, gemm=run.options.include_gemm
        ).aimed_at
    untouched = counted.macs.aimed_at.keys() - {site.output for site in counted.sites}
    expected = sum(planned[site.name] for site in counted.sites)
    actual = sum(macs for output, macs in after.items() if output not in untouched)
    if actual != expected:
        raise ValidationError(
            f"the rewritten layers take {actual} MACs and {expected} were planned: nothing was written; "
            "please report this model"
        )
