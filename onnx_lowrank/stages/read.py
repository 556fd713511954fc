"""Read: the model, and the layers in it that can be factorised."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import LoadedModel, inputs, load, outputs
from onnx_lowrank.graph.find.sites import Found, Skip, find_sites
from onnx_lowrank.graph.network import Network
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.stages.run import Run

MISSTATED = (
    "the model states shapes that its own nodes do not make, of {} tensors ({}); the result leaves these statements out"
)


@dataclass(frozen=True)
class Read:
    """The model as it was given and as the other stages see it.

    Attributes
    ----------
    loaded
        The file.
    network
        The model normalised: weights lifted, normalisations folded. No stage edits it.
    found
        Its convolutions, and its fully connected layers.
    inputs, outputs
        The model's interface.
    """

    loaded: LoadedModel
    network: Network
    found: Found
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read(run: Run) -> Read:
    """Load and check the model, and find what can be factorised.

    Raises
    ------
    ModelError
        Where the model cannot be read, or holds nothing to factorise.
    """
    options = run.options
    with run.stage("load"):
        loaded = load(run.request.model)
        network = normalise(loaded.proto, gemm=options.include_gemm)
        found = find_sites(network, options.include, options.exclude, gemm=options.include_gemm)
        check_any(found.sites, found.skipped, found.unmatched)
        for line in found.unmatched:
            run.warn(line)
        if loaded.misstated:
            names = sorted(loaded.misstated)
            run.warn(MISSTATED.format(len(names), ", ".join(names[:3]) + (", …" if len(names) > 3 else "")))
    return Read(loaded, network, found, inputs(loaded.proto), outputs(loaded.proto))


def check_any(sites: Sequence[object], skipped: Sequence[Skip], unmatched: Sequence[str] = ()) -> None:
    """Refuse a model without anything to factorise.

    Raises
    ------
    ModelError
        With the reasons, and with the nearest names of layers where a pattern matched none (``unmatched``).
    """
    if not sites:
        raise ModelError(f"nothing to factorise: {'; '.join((*unmatched, _why_nothing(skipped)))}")


def _why_nothing(skipped: Sequence[Skip]) -> str:
    if not skipped:
        return "the model has no convolution"
    reasons = Counter(skip.reason for skip in skipped)
    return "; ".join(f"{reason} ({count}×)" for reason, count in reasons.most_common())
