"""What a user requires of a result, beside what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx_lowrank.errors import DataError, ModelError
from onnx_lowrank.quality import ACCURACY, AGREEMENT, ERROR, MEASURES, NONE, Requirement
from onnx_lowrank.report.output_schema import OutputReport, least_agreeing
from onnx_lowrank.report.task_schema import MeasureReport, TaskReport
from onnx_lowrank.stages.measure import Measured


@dataclass(frozen=True)
class Demand:
    """The outcome.

    Attributes
    ----------
    met
        Whether the result is good enough.
    text
        What was measured and what is required, for messages.
    """

    met: bool
    text: str


def demand(required: Requirement, measured: Measured) -> Demand | None:
    """Compare what was measured with what is required; None where that is about the centred error, or nothing.

    Raises
    ------
    ModelError
        If it was not measured on these outputs.
    DataError
        If the samples give no value.
    """
    if required.measure == AGREEMENT:
        name = least_agreeing(measured.outputs)
        if name is None:
            raise unmeasurable(required, "class scores [samples, classes]", sorted(measured.outputs))
        output = measured.outputs[name]
        least = f"at least {100 * required.limit:g} % is required"
        return Demand(required.met_by(output.top1_agreement or 0.0), f"{_agreement(name, output)} and {least}")
    if required.measure == ACCURACY:
        return _loss(required, measured)
    if not required.of_a_task:
        return None
    reports = [report for report in measured.tasks if required.measure in report.measures]
    if not reports:
        # The outputs were recognised before the long work, or the run would not have come this far.
        raise DataError(
            f"--require {required} cannot be judged: the original's answers to the samples that judge have no "
            f"{MEASURES[required.measure].title}, such as images without any box; give more samples"
        )
    worst = min(reports, key=lambda report: report.measures[required.measure].value)
    return Demand(required.met_by(worst.measures[required.measure].value), _value(required, worst))


def _loss(required: Requirement, measured: Measured) -> Demand:
    """Compare the points that were lost on labelled samples with those that may be."""
    if measured.accuracy is not None:
        what, before, after = "top-1 accuracy", measured.accuracy.before, measured.accuracy.after
    elif measured.labelled is not None:
        name = next(iter(measured.labelled.before))
        what = MEASURES[name].title
        missing = MeasureReport(0.0, None, None)
        before, after = measured.labelled.before[name].value, measured.labelled.after.get(name, missing).value
    else:
        raise unmeasurable(required, "labelled samples (--test)", ())
    lost = 100 * (before - after)
    text = f"{what} fell from {100 * before:.1f} to {100 * after:.1f} %, and at most {required.limit:g} points"
    return Demand(required.met_by(round(lost, 9)), f"{text} may be lost")


def _value(required: Requirement, report: TaskReport) -> str:
    measure, found = MEASURES[required.measure], report.measures[required.measure]
    samples = f"{report.samples} sample" + ("s" if report.samples != 1 else "")
    value = f"{measure.title} of {', '.join(map(repr, report.outputs))} is "
    value += f"{measure.shown_within(found.value, found.low, found.high)} on {samples}"
    return f"{value}, and at least {measure.shown(required.limit)} is required"


def _agreement(name: str, output: OutputReport) -> str:
    share, low, high = (100 * (part or 0.0) for part in (output.top1_agreement, output.top1_low, output.top1_high))
    samples = f"{output.samples} sample" + ("s" if output.samples != 1 else "")
    return f"output {name!r} names the same class on {share:.1f} % of {samples} ({low:.1f} to {high:.1f} %),"


def unmeasurable(required: Requirement, needs: str, found: Sequence[str]) -> ModelError:
    """Return the error for a requirement that cannot be measured on these outputs."""
    outputs = f"the model has the outputs {', '.join(found)}" if found else "the model has none"
    other = f"require {NONE}" if required.measure == ERROR else f"{required.option} an {ERROR} instead"
    if required.option == "require" and required.measure != ERROR:
        other = f"{other}, or {NONE}"
    return ModelError(f"--{required.option} {required} needs {needs}, and {outputs}: {other}")
