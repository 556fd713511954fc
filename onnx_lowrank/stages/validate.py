"""The comparison of the rewritten model's outputs with the original's, and the places where its nodes run.

The comparison adds up sums from batch to batch, so that it holds the outputs of one batch, however many there are.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnx_lowrank.bench.node_times import breakdown, elsewhere
from onnx_lowrank.calibration.sampling import Batches, Sampling
from onnx_lowrank.data.source import Source
from onnx_lowrank.errors import ValidationError
from onnx_lowrank.options import Options
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.runtime.providers import CPU, provider_names
from onnx_lowrank.runtime.session import trace
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.difference import Difference
from onnx_lowrank.stages.parts_of_outputs import parts
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.tasks import Tallies

Array = NDArray[Any]


def compare_outputs(
    sessions: SessionPair,
    source: Source,
    batches: Batches,
    declared: DeclaredShapes,
    listener: Listener,
    tallies: Tallies | None = None,
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
    tallies
        Measure what the outputs are for.

    Returns
    -------
    dict
        The errors by the output's name.

    Raises
    ------
    ValidationError
        If an output has another type, breaks the declared shape, or is not finite where the original's is.
    """
    differences: dict[str, Difference] = {}
    left_out: dict[str, str] = {}
    measured = tallies.outputs if tallies else frozenset[str]()
    listener.progress("validate", 0, len(batches))
    for done, batch in enumerate(batches, 1):
        feeds = source.feeds(batch)
        runs = Runs(len(batch), parts(sessions.original(feeds)), parts(sessions.rewritten(feeds)))
        if tallies:
            tallies.add(len(batch), feeds, runs.references, runs.answers)
        found = _obstacles(runs, declared)
        for name, reason in found.items():
            if name not in left_out and name not in measured:
                listener.warn(f"output {name!r} {reason}: it is not compared with the original's")
        left_out |= found
        differences = _with_batch(differences, runs, declared, left_out)
        listener.progress("validate", done, len(batches))
    reports = {}
    for name, difference in differences.items():
        if difference.compared or not difference.finite:
            reports[name] = difference.report(name)
        else:
            listener.warn(f"output {name!r} has no finite number in the original: it could not be compared")
    if not reports and not measured:
        listener.warn("no floating-point output could be compared with the original's: measure the result with --test")
    return reports


@dataclass(frozen=True)
class Runs:
    """What both models made of a batch: the number of samples, and the outputs by name."""

    samples: int
    references: Mapping[str, Array]
    answers: Mapping[str, Array]


def _with_batch(
    differences: Mapping[str, Difference], runs: Runs, declared: DeclaredShapes, left_out: Container[str]
) -> dict[str, Difference]:
    """Return the sums of all floating-point outputs with one more batch, less those that are left out."""
    added = {name: difference for name, difference in differences.items() if name not in left_out}
    for name, ref in runs.references.items():
        if name not in left_out and np.issubdtype(ref.dtype, np.floating):
            pair = declared.samples_first(name, ref), declared.samples_first(name, runs.answers[name])
            added[name] = added.get(name, Difference()).with_batch(*pair, runs.samples)
    return added


def _obstacles(runs: Runs, declared: DeclaredShapes) -> dict[str, str]:
    """Return the outputs that cannot be compared on a batch, with the reasons.

    Raises
    ------
    ValidationError
        If an output has another type, or breaks the declared shape.
    """
    names = dict.fromkeys((*runs.references, *runs.answers))
    found = dict[str, str]()
    for name in names:
        if name not in runs.references or name not in runs.answers:
            found[name] = "belongs to a sequence whose length depends on the data"
        elif reason := _obstacle(name, runs.references[name], runs.answers[name], declared):
            found[name] = reason
    return found


def _obstacle(name: str, ref: object, out: object, declared: DeclaredShapes) -> str | None:
    """Return why an output cannot be compared, or None if it can.

    Raises
    ------
    ValidationError
        If the output has another type, or breaks the declared shape.
    """
    if not isinstance(ref, np.ndarray) or not isinstance(out, np.ndarray):
        return "is empty" if ref is None else f"is no tensor but a {type(ref).__name__}"
    if ref.dtype.hasobject or ref.dtype.kind == "U":
        return "consists of strings"
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
