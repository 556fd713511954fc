"""The layers that stay in floating point because rounding them costs too much.

The first layers see raw inputs, and behind the last ones nothing makes up for an error any more: the scores and boxes
of a detector stand side by side in one tensor, on one grid. Each of these groups is rounded alone, to the nearest
weights, and the outputs are compared on samples that choose.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnx_lowrank.factorise.rounding.columns import round_weights
from onnx_lowrank.graph.edit.rewrite import rewrite_together
from onnx_lowrank.graph.find.refusals import first_convolutions
from onnx_lowrank.graph.find.sites import Skip
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import store_integers
from onnx_lowrank.graph.quantise.pairs import insert_pairs
from onnx_lowrank.stages.integer_target import IntegerTarget
from onnx_lowrank.stages.observed import Observed
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.rehearsal import some
from onnx_lowrank.stages.round_layer import Rounded
from onnx_lowrank.stages.roundable import Roundable, behind_pairs
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.scoring import Scoring

NOTICEABLE = 0.2
"""The share of the error of all rounded layers from which on the error of a group alone is noticeable."""

HARMLESS = 1e-5
"""The centred error of the outputs up to which no rounding matters."""

SCORING = 16
"""The number of samples on which the outputs are compared."""


@dataclass(frozen=True)
class LeftInFloat:
    """The layers of a network, divided.

    Attributes
    ----------
    rounded
        The outputs of the layers that are rounded.
    left
        The others, with the reasons.
    """

    rounded: frozenset[str]
    left: tuple[Skip, ...]


def left_in_float(run: Run, prepared: Prepared, observed: Observed, target: IntegerTarget) -> LeftInFloat:
    """Find out which of the first and the last layers cost so much when they are rounded that they had better stay."""
    outputs = frozenset(layer.site.output for layer in observed.layers)
    sampling = prepared.sampled.sampling
    choosing = tuple(batch for batch, judges in zip(sampling.batches, sampling.judges, strict=True) if judges)
    reference = replace(prepared, read=replace(prepared.read, network=observed.network))
    scoring = Scoring(run, reference, some(choosing or sampling.batches, SCORING), SCORING)
    if not scoring.outputs:
        return LeftInFloat(outputs, ())

    def error(layers: Collection[str]) -> float:
        return scoring.of_network(rounded_to_nearest(observed, target, layers)).error

    groups = {
        "it is among the first layers, which see the inputs": first_convolutions(observed.network) & outputs,
        "it is among the last layers, behind which nothing makes up for an error": last_layers(
            observed.network, outputs
        ),
    }
    every = error(outputs)
    left: dict[str, str] = {}
    for reason, group in groups.items():
        alone = error(group) if group and group < outputs else 0.0
        if alone > max(NOTICEABLE * every, HARMLESS):
            told = f"{reason}: rounding these alone changes the outputs by {alone:.2g}, and rounding all by {every:.2g}"
            left |= dict.fromkeys(group, told)
    skipped = (
        Skip(layer.label, left[output], output) for layer in observed.layers if (output := layer.site.output) in left
    )
    return LeftInFloat(outputs - left.keys(), tuple(skipped))


def last_layers(network: Network, layers: Collection[str]) -> set[str]:
    """Return those of some layers whose responses reach an output of the model past no other one of them."""
    reached = {tensor.name for tensor in network.outputs}
    last: set[str] = set()
    for node in reversed(network.nodes):
        made = {tensor.name for tensor in node.outputs if tensor.name}
        if reached.isdisjoint(made):
            continue
        if not made.isdisjoint(layers):
            last |= made & set(layers)
        else:
            reached |= set(network.reads(node))
    return last


def rounded_to_nearest(observed: Observed, target: IntegerTarget, outputs: Collection[str]) -> Network:
    """Return the network with some layers rounded to the nearest weights, each for itself."""
    network = observed.network.copy()
    pairs = target.placement(network, outputs)
    grids = observed.grids_of(pairs)
    layers: Sequence[Roundable] = [layer for layer in observed.layers if layer.site.output in outputs]
    scales = {layer.label: grids[layer.site.input].scale for layer in layers}
    rounded = []
    for layer in behind_pairs(network, layers, insert_pairs(network, pairs, grids)):
        site = layer.site
        weights = site.kernel.reshape(len(site.kernel), -1)
        nearest = round_weights(weights, np.eye(weights.shape[1]), target.most)
        rounded.append(Rounded(layer, nearest, site.bias, scales[layer.label] if target.integer_biases else None))
    rewrite_together(network, [each.replacement for each in rounded])
    store_integers(network, [each.integers for each in rounded])
    return network
