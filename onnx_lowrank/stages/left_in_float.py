"""The layers that stay in floating point because rounding them costs too much.

The first layers see raw inputs, and behind the last ones nothing makes up for an error any more: the scores and boxes
of a detector stand side by side in one tensor, on one grid. Each of these groups is rounded alone, to the nearest
weights, and the outputs are compared on samples that choose. Where all layers together lose much, so is each tensor.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.factorise.rounding.columns import round_to_nearest
from onnx_lowrank.graph.edit.rewrite import rewrite_together
from onnx_lowrank.graph.find.refusals import first_convolutions
from onnx_lowrank.graph.find.sites import Skip
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.integers import store_integers
from onnx_lowrank.graph.quantise.pairs import insert_pairs
from onnx_lowrank.graph.quantise.placement import Surroundings
from onnx_lowrank.graph.quantise.target import IntegerTarget
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

SEVERE = 0.02
"""The centred error of the outputs from which on a tensor that makes it alone stays as it is. The channels of such a
tensor differ so much in size that one grid cannot serve them, as behind a first layer with a folded normalisation."""

SCORING = 16
"""The number of samples on which the outputs are compared."""


@dataclass(frozen=True)
class LeftInFloat:
    """The layers of a network, divided.

    Attributes
    ----------
    rounded
        The outputs of the layers that are rounded.
    exact
        The tensors that stay as they are.
    left
        The other layers, with the reasons.
    """

    rounded: frozenset[str]
    exact: frozenset[str]
    left: tuple[Skip, ...]


def left_in_float(run: Run, prepared: Prepared, observed: Observed, target: IntegerTarget) -> LeftInFloat:
    """Find out which layers and tensors cost so much when they are rounded that they had better stay as they are."""
    trial = _Trial(observed, target, _scoring(run, prepared, observed))
    outputs = frozenset(layer.site.output for layer in observed.layers)
    if not trial.scoring.outputs:
        return LeftInFloat(outputs, frozenset(), ())
    every = trial.error(outputs)
    groups = {
        "it is among the first layers, which see the inputs": first_convolutions(observed.network) & outputs,
        "it is among the last layers, behind which nothing makes up for an error": last_layers(
            observed.network, outputs
        ),
    }
    left: dict[str, str] = {}
    for reason, group in groups.items():
        alone = trial.error(group) if group and group < outputs else 0.0
        if alone > max(NOTICEABLE * every, HARMLESS):
            told = f"{reason}: rounding these alone changes the outputs by {alone:.2g}, and rounding all by {every:.2g}"
            left |= dict.fromkeys(group, told)
    severe = trial.severe(outputs) if every > SEVERE else {}
    around = Surroundings(observed.network)
    makers = {node.outputs[0].name: node for node in observed.network.nodes if node.outputs}
    for layer in observed.layers:
        output = layer.site.output
        touched = {layer.site.input, around.result(makers[output])} & severe.keys()
        if touched:
            worst = max(severe[name] for name in touched)
            told = f"what it reads or makes cannot be rounded: that alone changes the outputs by {worst:.2g}"
            left.setdefault(output, told)
    skipped = (
        Skip(layer.label, left[output], output) for layer in observed.layers if (output := layer.site.output) in left
    )
    return LeftInFloat(outputs - left.keys(), frozenset(severe), tuple(skipped))


def _scoring(run: Run, prepared: Prepared, observed: Observed) -> Scoring:
    """Return what compares outputs with those of the network in floating point, on samples that choose."""
    sampling = prepared.sampled.sampling
    choosing = tuple(batch for batch, judges in zip(sampling.batches, sampling.judges, strict=True) if judges)
    reference = replace(prepared, read=replace(prepared.read, network=observed.network))
    return Scoring(run, reference, some(choosing or sampling.batches, SCORING), SCORING)


@dataclass(frozen=True)
class _Trial:
    """A network of which some parts are rounded, for each itself."""

    observed: Observed
    target: IntegerTarget
    scoring: Scoring

    def error(self, layers: Collection[str]) -> float:
        """Return the error of the outputs where some layers are rounded, to the nearest weights."""
        return self.scoring.of_network(rounded_to_nearest(self.observed, self.target, layers)).error

    def severe(self, layers: Collection[str]) -> dict[str, float]:
        """Return the tensors that cannot be rounded, with the error of the outputs where one alone is."""
        network = self.observed.network
        pairs = self.target.placement(network, layers)
        grids = self.observed.grids_of(pairs)
        errors = {}
        for pair in pairs:
            if pair.like is None:
                trial = network.copy()
                insert_pairs(trial, [pair], grids)
                errors[pair.tensor] = self.scoring.of_network(trial).error
        return {name: error for name, error in errors.items() if error > SEVERE}


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
        nearest = round_to_nearest(weights, target.most)
        rounded.append(Rounded(layer, nearest, site.bias, scales[layer.label] if target.integer_biases else None))
    rewrite_together(network, [each.replacement for each in rounded])
    store_integers(network, [each.integers for each in rounded])
    return network
