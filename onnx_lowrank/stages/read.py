"""The stage that reads the model and finds the layers in it that can be factorised."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.count_macs import CONVOLUTIONS
from onnx_lowrank.graph.edit.determine import determined, random_nodes
from onnx_lowrank.graph.edit.inline import inline
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import LoadedModel, inputs, load, outputs
from onnx_lowrank.graph.find.sample_axes import with_axes
from onnx_lowrank.graph.find.sites import Found, find_sites
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.opset import with_integers_possible
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.stages.left_alone import nothing_to_factorise
from onnx_lowrank.stages.run import Run

LAYERS = (*CONVOLUTIONS, "Gemm", "MatMul")
"""The operators that are factorised, without and with fully connected layers."""

MISSTATED = (
    "the model states shapes that its own nodes do not make, of {} tensors ({}); the result leaves these statements out"
)

UNDETERMINED = (
    "the model draws random numbers where they cannot be held still ({}, of an opset before 7 or in a function that is "
    "not inlined): every run sees other noise, which the errors include"
)


@dataclass(frozen=True)
class Read:
    """The model in its file, and as the other stages see it.

    Attributes
    ----------
    loaded
        The model as it was loaded, with its functions inlined where they hold layers.
    network
        The model normalised: its weights are lifted, its normalisations folded, and its noise is computed from a key.
        No stage edits it.
    layers
        Its convolutions and fully connected layers.
    inputs, outputs
        The interface of the model.
    """

    loaded: LoadedModel
    network: Network
    layers: Found
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read(run: Run) -> Read:
    """Load and check the model, and find the layers that can be factorised.

    Raises
    ------
    ModelError
        If the model cannot be read, or has nothing to factorise.
    """
    options = run.options
    with run.stage("load"):
        loaded = load(run.request.model)
        if options.quantize:
            loaded = with_integers_possible(loaded)
        taken = inputs(loaded.proto)
        check_inputs(taken)
        operators = (*(LAYERS if options.include_gemm else CONVOLUTIONS), *random_nodes(loaded.proto))
        loaded = replace(loaded, proto=inline(loaded.proto, operators))
        working, chance = determined(loaded.proto)
        network = normalise(working, gemm=options.include_gemm)
        network.chance = chance
        layers = find_sites(network, options.include, options.exclude, gemm=options.include_gemm)
        check_found(layers)
        for line in layers.unmatched:
            run.warn(line)
        if loaded.misstated:
            names = sorted(loaded.misstated)
            run.warn(MISSTATED.format(len(names), ", ".join(names[:3]) + (", …" if len(names) > 3 else "")))
        if left := random_nodes(working):
            run.warn(UNDETERMINED.format(", ".join(left)))
    return Read(loaded, network, layers, with_axes(loaded.proto, taken), outputs(loaded.proto))


def check_inputs(specs: Sequence[TensorSpec]) -> None:
    """Refuse a model with inputs that calibration data cannot hold.

    Raises
    ------
    ModelError
        If an input is no array of numbers.
    """
    for spec in specs:
        if spec.dtype.hasobject:
            raise ModelError(
                f"input {spec.name!r} is a string, a sequence, an optional or a map, and calibration data hold arrays "
                "of numbers alone: export the network without what stands in front of its tensors"
            )


def check_found(layers: Found) -> None:
    """Refuse a model that has nothing to factorise, unless only a run of it can tell what its layers cost.

    Raises
    ------
    ModelError
        If there is no site; the message states the reasons, and the nearest names for a pattern that matches no layer.
    """
    countable = any(skip.output for skip in layers.skipped) and not layers.unmatched
    if not layers.sites and not layers.first and not countable:
        raise ModelError(nothing_to_factorise(layers.skipped, {}, layers.unmatched))
