"""The comparison of the rewritten model's outputs with the original's, and the places where its nodes run.

The comparison adds up sums from batch to batch, so that it holds the outputs of one batch, however many there are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.bench.node_times import breakdown, elsewhere
from onnx_lowrank.calibration.sampling import Batches, Sampling
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.schema import OutputReport
from onnx_lowrank.runtime.providers import CPU, provider_names
from onnx_lowrank.runtime.session import trace
from onnx_lowrank.stages.session_pair import SessionPair

Array = NDArray[Any]


@dataclass(frozen=True)
class DeclaredShapes:
    """The shapes that a model declares for its outputs.

    Attributes
    ----------
    outputs
        The declared shape of every output by its name; see ``TensorSpec.shape``.
    input_symbols
        The sizes that the declared inputs name. An output dimension of the same name has a size that the input decides.
    """

    outputs: Mapping[str, tuple[int | str | None, ...] | None]
    input_symbols: frozenset[int | str]

    @classmethod
    def of(cls, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> "DeclaredShapes":
        """Collect the shapes from the declared inputs and outputs of a model."""
        symbols = frozenset(side for spec in inputs for side in spec.shape or () if side is not None)
        return cls({spec.name: spec.shape for spec in outputs}, symbols)

    def broken_by(self, name: str, original: tuple[int, ...], rewritten: tuple[int, ...]) -> bool:
        """Return whether two shapes of an output differ in a dimension that the model declares."""
        declared = self.outputs[name]
        if declared is None or original == rewritten:  # some models violate their own declaration
            return False
        if not len(declared) == len(original) == len(rewritten):
            return True
        return any(
            one != other and (isinstance(side, int) or side in self.input_symbols)
            for side, one, other in zip(declared, original, rewritten, strict=True)
        )


@dataclass(frozen=True)
class Difference:
    """The difference of an output from the original's, summed over the samples so far.

    Attributes
    ----------
    squared
        Σ(out − ref)² over the elements that are finite in the reference.
    scale
        Σ ref² over the same elements.
    largest
        max |out − ref| over the same elements.
    agreeing, scored
        The number of samples on which both outputs have the same largest score, and the number of all samples, where
        the output has the shape of class scores [samples, classes].
    finite
        Whether ``out`` is finite wherever ``ref`` is. Where it is not, the other sums mean nothing.
    """

    squared: float = 0.0
    scale: float = 0.0
    largest: float = 0.0
    agreeing: int = 0
    scored: int = 0
    finite: bool = True

    def with_batch(self, ref: Array, out: Array) -> "Difference":
        """Return the sums with one more batch of the output; both arrays have the same shape, samples first."""
        finite = np.isfinite(ref)
        reference, answer = ref[finite].astype(np.float64), out[finite].astype(np.float64)
        if not self.finite or not np.isfinite(answer).all():
            return Difference(finite=False)
        difference = np.abs(answer - reference)
        scores = ref.ndim == 2 and ref.shape[1] > 1
        return Difference(
            squared=self.squared + float(np.square(difference).sum()),
            scale=self.scale + float(np.square(reference).sum()),
            largest=max(self.largest, float(difference.max(initial=0.0))),
            agreeing=self.agreeing + (int((ref.argmax(axis=1) == out.argmax(axis=1)).sum()) if scores else 0),
            scored=self.scored + (len(ref) if scores else 0),
        )

    def report(self, name: str) -> OutputReport:
        """Return the errors of an output; a reference of zeros leaves the sum of squares as the relative error.

        Raises
        ------
        ValidationError
            If the output is not finite where the original's is.
        """
        if not self.finite:
            raise ValidationError(
                f"output {name!r} is not finite where the original's is: nothing was written; "
                "try more calibration data or a lower --speedup"
            )
        return OutputReport(
            relative_error=self.squared / self.scale if self.scale else self.squared,
            max_abs_error=self.largest,
            top1_agreement=self.agreeing / self.scored if self.scored else None,
        )


def compare_outputs(
    sessions: SessionPair, source: Source, batches: Batches, declared: DeclaredShapes, listener: Listener
) -> dict[str, OutputReport]:
    """Compare every floating-point output on the given samples.

    Parameters
    ----------
    sessions
        The two models.
    source, batches
        The samples.
    declared
        The output shapes that the model declares, which the rewritten model must keep.
    listener
        Receives the progress, and a warning for every output that cannot be compared.

    Returns
    -------
    dict
        The errors by the output's name.

    Raises
    ------
    ValidationError
        If an output has another type, breaks the declared shape, or is not finite where the original's is.
    """
    differences: dict[str, Difference | None] = dict.fromkeys(sessions.original.outputs)
    listener.progress("validate", 0, len(batches))
    for done, batch in enumerate(batches, 1):
        differences = _with_batch(differences, sessions, source.feeds(batch), declared, listener)
        listener.progress("validate", done, len(batches))
    reports = {name: difference.report(name) for name, difference in differences.items() if difference}
    if not reports:
        listener.warn("no floating-point output could be compared with the original's: measure the result with --test")
    return reports


def _with_batch(
    differences: Mapping[str, Difference | None],
    sessions: SessionPair,
    feeds: Feeds,
    declared: DeclaredShapes,
    listener: Listener,
) -> dict[str, Difference | None]:
    """Return the sums with one more batch, without the outputs that cannot be compared on it.

    An output that is not floating-point has no sums, but its type and shape are checked on every batch.
    """
    references, answers = sessions.original(feeds), sessions.rewritten(feeds)
    added: dict[str, Difference | None] = {}
    for name, difference in differences.items():
        ref, out = references[name], answers[name]
        if obstacle := _obstacle(name, ref, out, declared):
            listener.warn(f"output {name!r} {obstacle}: it is not compared with the original's")
        elif np.issubdtype(ref.dtype, np.floating):
            added[name] = (difference or Difference()).with_batch(ref, out)
        else:
            added[name] = None
    return added


def _obstacle(name: str, ref: object, out: Array, declared: DeclaredShapes) -> str | None:
    """Return why an output cannot be compared, or None if it can.

    Raises
    ------
    ValidationError
        If the output has another type, or breaks the declared shape.
    """
    if not isinstance(ref, np.ndarray):
        return f"is no tensor but a {type(ref).__name__}"
    if out.dtype != ref.dtype or declared.broken_by(name, ref.shape, out.shape):
        raise ValidationError(
            f"output {name!r} became {out.dtype}{list(out.shape)}, it was {ref.dtype}{list(ref.shape)}: "
            "nothing was written; please report this model"
        )
    if out.shape != ref.shape:
        return f"has a size that depends on the data, {list(out.shape)} where the original has {list(ref.shape)}"
    return None


def note_placement(model: onnx.ModelProto, options: Options, sampling: Sampling, warn: Callable[[str], None]) -> None:
    """Warn about nodes of the rewritten model that the first provider does not support, and where they run instead.

    Parameters
    ----------
    model
        The rewritten model, which is run once with a profiler unless everything runs on the CPU anyway.
    options
        The providers and threads of the run.
    sampling
        The samples, of which the smallest batch is run.
    warn
        Receives the warning.
    """
    providers = provider_names(options.providers)
    if providers[0] == CPU:
        return
    feeds = sampling.source.feeds(sampling.single)
    events = trace(model.SerializeToString(), providers, options.threads, "the rewritten model", feeds, 1)
    if text := elsewhere(breakdown(events).providers, providers[0]):
        warn(text)
