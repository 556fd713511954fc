"""The program on one page.

prepare (load → normalise → find sites → sample → profile the original → plan ranks) → walk (sample, solve, rewrite,
advance, refit) → validate → report
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from onnx_lowrank.calibration.macs import check_costs
from onnx_lowrank.factorise.forms.table import FORMS, FormTable
from onnx_lowrank.graph.files.load import inputs, outputs
from onnx_lowrank.graph.files.save import export, write
from onnx_lowrank.graph.files.validate import validate
from onnx_lowrank.progress import NOBODY, Listener
from onnx_lowrank.report.latency_schema import MeasuredReport
from onnx_lowrank.report.schema import PlanReport, Report
from onnx_lowrank.runtime.session import opener
from onnx_lowrank.stages import report as reporting
from onnx_lowrank.stages.accuracy import measure_accuracy
from onnx_lowrank.stages.plan import prepared_for
from onnx_lowrank.stages.read import measure, prepare
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Checked
from onnx_lowrank.stages.session_pair import SessionPair
from onnx_lowrank.stages.speed import check_faster, measure_latency
from onnx_lowrank.stages.validate import DeclaredShapes, compare_outputs, note_placement
from onnx_lowrank.stages.walk import walk


@dataclass(frozen=True)
class Result:
    """A factorised model and what happened."""

    model: onnx.ModelProto
    report: Report
    external_data: bool

    def save(self, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
        """Write the model; it appears whole or not at all.

        ``external_data`` says whether weights go to a file of their own beside it; None: as in the input.

        Raises
        ------
        EnvironmentFault
            Where the file cannot be written.
        """
        write(self.model, Path(path), external_data=self.external_data if external_data is None else external_data)


def plan_only(request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS) -> PlanReport:
    """Profile the original and choose the ranks; solve and write nothing. See ``compress``."""
    return reporting.plan_report(prepare(request, listener, forms), request.options)


def measure_only(request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS) -> MeasuredReport:
    """Measure all that a plan by the clock asks for, and keep it in the options' table. See ``compress``."""
    return reporting.measured_report(measure(request, listener, forms))


def compress(request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS) -> Result:
    """Factorise a model's convolutions.

    Raises
    ------
    LowRankError
        The subclass says what kind of thing is wrong; see ``errors``.
    """
    options, progress = request.options, listener.progress
    warnings: list[str] = []

    def note(text: str) -> None:
        warnings.append(text)
        listener.warn(text)

    run = prepare(request, Listener(progress, note), forms)
    run = replace(run, prepared=prepared_for(run.plan, run.prepared, forms))
    clock, sampling, source = run.clock, run.sampling, run.sampling.source
    with clock.stage("factorise"):
        walked = walk(
            run.graph,
            run.sites,
            run.plan,
            run.targets,
            run.prepared,
            forms,
            run.costs,
            run.macs.all,
            sampling,
            run.open_session,
            options,
            progress,
            run.linears,
        )
    with clock.stage("validate"):
        progress("validate", 0, 1)
        gemm = options.include_gemm
        check_costs(run.graph, run.macs, run.costs, run.sites, sampling, run.open_session, gemm=gemm)
        rewritten = export(run.graph, run.loaded)
        validate(rewritten, run.loaded.proto)
        open_as_deployed = opener(options.providers, options.threads, spinning=True)
        sessions = SessionPair(
            open_as_deployed(run.loaded.proto, "the model"), open_as_deployed(rewritten, "the rewritten model")
        )
        note_placement(rewritten, options, sampling, note)
        if not sampling.validation:
            note("too few samples to spare any: the outputs are compared on samples that the solver saw")
        declared = DeclaredShapes.of(inputs(run.loaded.proto), outputs(run.loaded.proto))
        seen = sampling.validation or sampling.batches
        compared = compare_outputs(sessions, source, seen, declared, Listener(progress, note))
        progress("latency", 0, 1)
        latency = measure_latency(sessions, source, run.timed_batch)
        check_faster(latency, run.plan, options, note, given=run.by_clock is None)
        progress("latency", 1, 1)
        accuracy = None
        if run.labelled:
            accuracy = measure_accuracy(sessions, run.labelled, sampling, progress)
    measured = Checked(rewritten, walked, compared, latency, accuracy, sessions.rewritten.provider, tuple(warnings))
    return Result(rewritten, reporting.report(run, options, measured), run.loaded.external_data)
