"""The stage that rounds the network to 8 bits, layer by layer, from the input on.

It walks once more over the network that the walk has approximated. Every layer is rounded for what the layers before it
deliver in integers, and where the original's responses are known it is first fitted to them again, so that it makes up
for what these layers have lost. Everything that does not depend on the walk comes before it: which tensors are rounded,
and on which grids.
"""

from collections.abc import Sequence
from dataclasses import replace

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.graph.edit.rewrite import rewrite_together
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import store_integers
from onnx_lowrank.graph.quantise.pairs import insert_pairs
from onnx_lowrank.graph.quantise.target import integer_target
from onnx_lowrank.stages.integers import Integers
from onnx_lowrank.stages.left_in_float import left_in_float
from onnx_lowrank.stages.observe import observe
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.round_layer import Rounded, RoundStep
from onnx_lowrank.stages.roundable import behind_pairs, roundable
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.steps import LEAST_ROOM, OVERHEAD
from onnx_lowrank.stages.walk import Walked


def quantise(run: Run, prepared: Prepared, walked: Walked) -> Walked:
    """Round the network that the walk has led to.

    Parameters
    ----------
    run, prepared
        The surroundings, and the results up to the plan with the profile.
    walked
        The network, which stays as it is.

    Returns
    -------
    Walked
        The same, with a network in integers in the place of its own.
    """
    network = walked.network
    with run.times.stage("quantise"):
        target = integer_target(run.options.preset)
        found = roundable(run, prepared, network)
        every = {layer.site.output for layer in found.layers}
        observed = observe(run, prepared, found, target.placement(network, every), target.codes)
        divided = left_in_float(run, prepared, observed, target)
        rounding = observed.network.copy()
        pairs = target.placement(rounding, divided.rounded, divided.exact)
        grids = observed.grids_of(pairs)
        renamed = insert_pairs(rounding, pairs, grids)
        wanted = [layer for layer in observed.layers if layer.site.output in divided.rounded]
        scales = {layer.label: grids[layer.site.input].scale for layer in wanted}
        layers = behind_pairs(rounding, wanted, renamed)
        steps = [
            RoundStep(
                layer,
                prepared.sampled.sampling,
                most=target.most,
                input_scale=scales[layer.label],
                integer_bias=target.integer_biases,
                nonlinear=run.options.solver == "nonlinear",
            )
            for layer in layers
        ]
        rounded, executed = _walk(run, prepared, rounding, steps, found.macs)
        rewrite_together(rounding, [each.replacement for each in rounded])
        store_integers(rounding, [each.integers for each in rounded])
    integers = Integers(network, target.most.bit_length() + 1, tuple(rounded), (*found.skipped, *divided.left))
    return replace(walked, network=rounding, integers=integers, macs_executed=walked.macs_executed + executed)


def _walk(
    run: Run, prepared: Prepared, network: Network, steps: Sequence[RoundStep], macs: Macs
) -> tuple[list[Rounded], int]:
    """Run all steps, in their order, and return what they led to with the MACs that the network took."""
    sampling = prepared.sampled.sampling
    targets = sum(step.layer.target.rows.nbytes for step in steps if step.layer.target is not None)
    memory = max(LEAST_ROOM, run.options.memory - OVERHEAD - targets)
    rounded: list[Rounded] = []
    run.progress("quantise", 0, len(steps))
    with open_shards(network, sampling, run.open_session, macs.all, run.shards) as shard:
        for step in steps:
            rounded.append(step.run(shard, memory))
            run.progress("quantise", len(rounded), len(steps))
        return rounded, shard.macs_executed
