"""The rewritten model against the original: outputs, accuracy on labelled samples, and the clock."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.bench.node_times import breakdown, elsewhere
from onnx_lowrank.bench.turns import Budget, take_turns
from onnx_lowrank.calibration.sampling import Batches, Sampling
from onnx_lowrank.data.labels import Labelled
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import DataError, TargetError, ValidationError
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.options import Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.progress import Progress
from onnx_lowrank.report.schema import AccuracyReport, Latency, OutputReport
from onnx_lowrank.runtime.providers import CPU, provider_names
from onnx_lowrank.runtime.session import Session, trace

Array = NDArray[Any]

LATENCY_BUDGET = Budget(rounds=15, seconds=1, turn=0.001)
"""Enough for an informative number; ``onnx-lowrank-bench`` measures thoroughly."""


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
            elif out.dtype != ref.dtype or _promised(declared[name], known, ref.shape, out.shape):
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


def _promised(
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


def check_labelled(labelled: Labelled, output: TensorSpec, sampling: Sampling) -> None:
    """Refuse labelled samples with which the accuracy cannot be measured, as far as the model's first output tells.

    Raises
    ------
    DataError
        Where that output is declared to be something else than class scores, or to have fewer classes than the labels,
        or where the samples do not fill a batch.
    """
    _, labels = labelled
    if output.shape is not None and len(output.shape) != 2:
        raise _no_scores(output.name, output.shape)
    classes = output.shape[1] if output.shape else None
    if isinstance(classes, int) and labels.max() >= classes:
        raise DataError(
            f"--test has label {labels.max()}, and output {output.name!r} has {classes} classes, counted from 0: "
            "mend the labels"
        )
    if not sampling.like(len(labels)):
        raise DataError(f"--test has {len(labels)} samples, fewer than the batch that the model demands: give more")


def _no_scores(output: str, shape: Sequence[object]) -> DataError:
    said = ", ".join("?" if side is None else str(side) for side in shape)
    return DataError(
        f"--test needs class scores [samples, classes], and output {output!r} has shape [{said}]: leave --test out"
    )


def measure_accuracy(
    before: Session, after: Session, labelled: Labelled, sampling: Sampling, progress: Progress
) -> AccuracyReport:
    """Top-1 of the first output of both models.

    Raises
    ------
    DataError
        Where that output does not hold one row of class scores a sample.
    """
    source, labels = labelled
    batches = sampling.like(len(labels))
    right = [0, 0]
    progress("test", 0, len(batches))
    for done, batch in enumerate(batches, 1):
        feeds = source.feeds(batch)
        for which, session in enumerate((before, after)):
            scores = session(feeds)[session.outputs[0]]
            shape = getattr(scores, "shape", ())  # a sequence or map has none
            if len(shape) != 2 or len(scores) != len(batch):
                raise _no_scores(session.outputs[0], shape)
            right[which] += int((scores.argmax(axis=1) == labels[list(batch)]).sum())
        progress("test", done, len(batches))
    count = sum(map(len, batches))
    return AccuracyReport(count, right[0] / count, right[1] / count)


def measure_latency(before: Session, after: Session, source: Source, batch: tuple[int, ...]) -> Latency:
    """Both models in turns on one small batch."""
    feeds = source.feeds(batch)
    times = take_turns((lambda: before(feeds), lambda: after(feeds)), LATENCY_BUDGET)
    speed = times.speed(1)
    return Latency(
        before_ms=round(1e3 * times.median(0), 3),
        after_ms=round(1e3 * times.median(1), 3),
        ratio=round(speed.value, 3),
        ratio_low=round(speed.low, 3),
        ratio_high=round(speed.high, 3),
        confidence=round(speed.confidence, 4),
        rounds=len(times.seconds),
        batch=len(batch),
    )


def check_faster(latency: Latency, plan: Plan, options: Options, note: Callable[[str], None], *, given: bool) -> None:
    """Refuse a result that was to be faster by the clock and is not; say where it is not as fast as was asked for.

    Nothing is asked of a plan that leaves all layers alone where it was given or no speedup is wanted.

    Raises
    ------
    TargetError
        Where the new model was measured to be slower than the original.
    """
    if options.target != "latency" or options.latency_device:
        return
    if (given or options.speedup <= 1) and not any(site.form for site in plan.sites):
        return
    if latency.ratio < 1:
        raise TargetError(
            f"the rewritten model takes {latency.after_ms:.3g} ms and the original {latency.before_ms:.3g} ms: nothing "
            "was written; measure on an idle machine, or leave this model as it is"
        )
    if latency.ratio < options.speedup:
        note(
            f"the result is {latency.ratio:.2f} times as fast ({latency.ratio_low:.2f} to {latency.ratio_high:.2f}), a "
            f"little less than the {options.speedup:g} that were asked for and met before it was solved"
        )


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
