"""Check: the rewritten network becomes a model again, and what was promised of it is looked at before it runs."""

import onnx

from onnx_lowrank.calibration.macs import measure_macs
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.graph.files.save import export
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.graph.network import Network
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run


def check(run: Run, prepared: Prepared, network: Network) -> onnx.ModelProto:
    """Turn the rewritten network into a model, and check its costs, its interface and that it is valid ONNX.

    Raises
    ------
    ValidationError
        Where a promise is broken.
    """
    with run.times.stage("validate"):
        run.progress("validate", 0, 1)
        check_costs(run, prepared, network)
        model = export(network, prepared.read.loaded)
        validate(model, prepared.read.loaded.proto)
    return model


def check_costs(run: Run, prepared: Prepared, network: Network) -> None:
    """Count the rewritten network as the original was counted, and compare with the plan.

    Other convolutions than the sites are not compared: how often they run may depend on what the sites make, as in a
    detector that looks at regions.

    Raises
    ------
    ValidationError
        Where they differ.
    """
    counted, planned = prepared.counted, prepared.planned.macs
    others = counted.macs.aimed_at.keys() - {site.output for site in counted.sites}
    expected = sum(planned[site.name] for site in counted.sites)
    gemm = run.options.include_gemm
    after = measure_macs(network, prepared.sampled.sampling, run.open_session, gemm=gemm).aimed_at
    found = sum(macs for output, macs in after.items() if output not in others)
    if found != expected:
        raise ValidationError(
            f"the rewritten layers take {found} MACs and {expected} were planned: nothing was written; "
            "please report this model"
        )
