"""The stage that measures the rewritten model beside the original, on samples that no solver saw and by the clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from onnx_lowrank.measures.task import Task
from onnx_lowrank.progress import Listener
from onnx_lowrank.report.latency_schema import Latency
from onnx_lowrank.report.output_schema import OutputReport
from onnx_lowrank.report.schema import AccuracyReport
from onnx_lowrank.report.task_schema import LabelledReport, TaskReport
from onnx_lowrank.stages.accuracy import measure_accuracy
from onnx_lowrank.stages.comparable import comparable
from onnx_lowrank.stages.declared import DeclaredShapes
from onnx_lowrank.stages.labelled import Labelling, measure_labelled
from onnx_lowrank.stages.prepared import Prepared
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.speed import check_faster, measure_latency
from onnx_lowrank.stages.tasks import Tallies, tasks_of
from onnx_lowrank.stages.validate import compare_outputs, note_placement


@dataclass(frozen=True)
class Measured:
    """The measurements of the rewritten model.

    Attributes
    ----------
    outputs
        The errors of its outputs, by name.
    latency
        The times of both models.
    accuracy
        The accuracy of both models on samples with labelled classes; None where there are none.
    tasks
        What the outputs are for, and how well the result does that.
    labelled
        How well both models do that on samples with labelled boxes or masks; None where there are none.
    provider
        The execution provider that ran it.
    variants
        The times of other models beside those of the original, by name.
    """

    outputs: dict[str, OutputReport]
    latency: Latency
    accuracy: AccuracyReport | None
    tasks: tuple[TaskReport, ...]
    labelled: LabelledReport | None
    provider: str
    variants: Mapping[str, Latency] = field(default_factory=dict)


NO_VARIANTS: Mapping[str, onnx.ModelProto] = {}


def measure(
    run: Run, prepared: Prepared, model: onnx.ModelProto, variants: Mapping[str, onnx.ModelProto] = NO_VARIANTS
) -> Measured:
    """Compare the outputs and the times of both models, and their accuracy where there are labelled samples.

    Parameters
    ----------
    run, prepared
        The surroundings, and the results up to the plan.
    model
        The rewritten model.
    variants
        Other models that are timed beside the two.

    Raises
    ------
    ValidationError
        If an output has another shape or type, or is not finite where the original's is.
    TargetError
        If a model that was to be faster by the clock is slower.
    DataError
        If the labelled samples do not fit the outputs.
    """
    read, sampled, planned = prepared.read, prepared.sampled, prepared.planned
    options, sampling = run.options, sampled.sampling
    with run.times.stage("validate"):
        tasks = tasks_of(run, read, sampled)
        # The two take turns, and idle threads that spin would take the processor from the other one's.
        original = run.open_session(read.loaded.proto, "the model")
        sessions = SessionPair(original, run.open_session(model, "the rewritten model"))
        compared = comparable(sessions, read.loaded.proto, model, run.open_session)
        note_placement(model, options, sampling, run.warn)
        if not sampling.validation:
            run.warn("too few samples to spare any: the outputs are compared on samples that the solver saw")
        declared = DeclaredShapes.of(read.inputs, read.outputs, sampled.output_axes)
        batches = sampling.validation or sampling.batches
        listener = Listener(run.progress, run.warn)
        tallies = Tallies(tasks, declared, run.warn)
        outputs = compare_outputs(compared, sampled.source, batches, declared, listener, tallies)
        accuracy, labelled = _on_labels(compared, sampled, tasks, declared, listener)
        provider = sessions.rewritten.provider
        del original, sessions, compared  # Their memory is for the process that measures the latency.
        run.progress("latency", 0, 1)
        batch = prepared.reach.deployment.batch
        feeds = sampled.source.feeds(batch)
        models = (read.loaded.proto, model, *variants.values())
        latency, *others = measure_latency(models, feeds, len(batch), options, run.warn)
        check_faster(latency, planned.plan, options, run.warn, user_plan=planned.by_clock is None)
        run.progress("latency", 1, 1)
    timed = dict(zip(variants, others, strict=True))
    return Measured(outputs, latency, accuracy, tallies.reports(), labelled, provider, timed)


def _on_labels(
    sessions: SessionPair, sampled: Sampled, tasks: Sequence[Task], declared: DeclaredShapes, listener: Listener
) -> tuple[AccuracyReport | None, LabelledReport | None]:
    """Measure both models on labelled samples, with classes or with boxes or masks."""
    if sampled.labelled is None:
        return None, None
    source, labels = sampled.labelled
    if isinstance(labels, np.ndarray):
        return measure_accuracy(sessions, (source, labels), sampled.sampling, listener.progress), None
    task = next(task for task in tasks if task.name == sampled.labelled_task)  # checked before the long work
    labelling = Labelling(task, source, labels, sampled.sampling, declared)
    return None, measure_labelled(sessions, labelling, listener)
