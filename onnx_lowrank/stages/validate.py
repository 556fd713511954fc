"""The rewritten model against the original: outputs, accuracy on labelled samples, and the clock."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.bench.node_times import breakdown, elsewhere
from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Progress
from onnx_lowrank.report.schema import OutputReport
from onnx_lowrank.runtime.providers import CPU, provider_names
from onnx_lowrank.runtime.session import Session, trace

Array = NDArray[Any]


def compare_outputs(
    before: Session,
    after: Session,
    source: Source,
    batches: Batches,
    specs: tuple[Sequence[TensorSpec], Sequence[TensorSpec]],
    progress: Progress,
    note: Callable[[str], None],
) -> dict[str, OutputReport]:
    """Every floating-point output on the given samples.

    Parameters
    ----------
    before, after
        The two models.
    source, batches
        The samples.
    specs
        The model's declared inputs and outputs.
    progress, note
        Hear of every batch, and of every output that cannot be compared.

    Raises
    ------
    ValidationError
        Where the new model's output has another shape or type, or is not finite where the original's is.
    """
    inputs, outputs = specs
    # A name that an input's dimension bears too stands for a size that the input decides.
    known = {side for spec in inputs for side in spec.shape or () if side is not None}
    declared = {spec.name: spec.shape for spec in outputs}
    pairs: dict[str, list[tuple[Array, Array]]] = {name: [] for name in before.outputs}
    progress("validate", 0, len(batches))
    for done, batch in enumerate(batches, 1):
        feeds = source.feeds(batch)
        reference, answers = before(feeds), after(feeds)
        for name in list(pairs):
            ref, out = reference[name], answers[name]
            if not isinstance(ref, np.ndarray):
                note(f"output {name!r} is no tensor but a {type(ref).__name__}: it is not compared with the original's")
                del pairs[name]
            elif out.dtype != ref.dtype or _breaks_declared_shape(declared[name], known, ref.shape, out.shape):
                raise ValidationError(
                    f"output {name!r} became {out.dtype}{list(out.shape)}, it was {ref.dtype}{list(ref.shape)}: "
                    "nothing was written; please report this model"
                )
            elif out.shape != ref.shape:
                note(
                    f"output {name!r} has a size that depends on the data, {list(out.shape)} where the original has "
                    f"{list(ref.shape)}: it is not compared with the original's"
                )
                del pairs[name]
            elif np.issubdtype(ref.dtype, np.floating):
                pairs[name].append((ref.astype(np.float64), out.astype(np.float64)))
        progress("validate", done, len(batches))
    compared = {name: _compare(name, of_output) for name, of_output in pairs.items() if of_output}
    if not compared:
        note("no floating-point output could be compared with the original's: measure the result with --test")
    return compared


def _breaks_declared_shape(
    declared: tuple[int | str | None, ...] | None, known: Container[object], ref: tuple[int, ...], out: tuple[int, ...]
) -> bool:
    """Whether two shapes differ where the model says what it is."""
    if declared is None or ref == out:  # some models declare what they do not keep themselves
        return False
    if not len(declared) == len(ref) == len(out):
        return True
    return any(
        one != other and (isinstance(side, int) or side in known)
        for side, one, other in zip(declared, ref, out, strict=True)
    )


def _compare(name: str, pairs: Sequence[tuple[Array, Array]]) -> OutputReport:
    squared = scale = largest = 0.0
    agree = scored = 0
    for ref, out in pairs:
        finite = np.isfinite(ref)
        if not np.isfinite(out[finite]).all():
            raise ValidationError(
                f"output {name!r} is not finite where the original's is: nothing was written; "
                "try more calibration data or a lower --speedup"
            )
        difference = np.abs(out[finite] - ref[finite])
        squared += float(np.square(difference).sum())
        scale += float(np.square(ref[finite]).sum())
        largest = max(largest, float(difference.max(initial=0.0)))
        if ref.ndim == 2 and ref.shape[1] > 1:
            agree += int((ref.argmax(axis=1) == out.argmax(axis=1)).sum())
            scored += len(ref)
    return OutputReport(squared / scale if scale else squared, largest, agree / scored if scored else None)


def note_placement(
    serialise: Callable[[], bytes],
    options: Options,
    source: Source,
    batch: tuple[int, ...],
    note: Callable[[str], None],
) -> None:
    """Tell where the nodes run that the provider asked for does not know, of a model that is serialised if need be."""
    asked, *others = provider_names(options.providers)
    if asked == CPU:
        return
    events = trace(serialise(), (asked, *others), options.threads, "the rewritten model", source.feeds(batch), 1)
    if text := elsewhere(breakdown(events).providers, asked):
        note(text)
