"""The program on one page: every stage in order.

    read     the model is loaded and normalised, and the layers that can be factorised are found
    sample   the calibration data are divided into samples that solve, that choose and that only judge
    count    one run on the smallest batch gives the costs and shapes of all layers
    reach    what cannot succeed is refused before the long work; for a plan by the clock the layers are measured
    fit      the samples are compared with what the network was trained on, to notice a wrong preset
    profile  one pass of the original samples the responses of every layer, and the forms prepare the kernels
    widths   the error of every set of channels that could become fewer is measured against its width
    weigh    the layers are weighed by what their errors do to the outputs, in rehearsals on a few samples
    plan     the forms and ranks of all layers, and the widths, are chosen together under one budget
    narrow   the channels that the plan has no width for are taken out of the network
    walk     layer by layer, from the input on: sample, solve, rewrite, advance
    quantise where asked for, a second walk rounds the rewritten network to 8 bits
    check    the new model has kept its interface and costs what was planned
    measure  both models are compared on samples that no solver saw, by the clock, and on labelled samples
    judge    the errors of the outputs give a verdict, and a result that is worse than accepted is refused
    report   the results of all stages become plain data

Where a quality is asked for, or a curve of what speedups cost, the stages from weigh to walk take place for several
speedups on the same profile (``keep``).

Each stage is a function in a file of its own in ``stages`` and returns one frozen result. No stage changes the result
of another one.
"""

import contextlib
import os
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import onnx

from onnx_lowrank.calibration.shards import open_shards
from onnx_lowrank.errors import QualityError
from onnx_lowrank.factorise.forms.table import FORMS, FormTable
from onnx_lowrank.graph.files.save import write
from onnx_lowrank.graph.gather import gathered
from onnx_lowrank.progress import NOBODY, Listener
from onnx_lowrank.report.latency_schema import MeasuredReport
from onnx_lowrank.report.plan_schema import PlanReport
from onnx_lowrank.report.schema import Report
from onnx_lowrank.runtime.blas_threads import without_spinning
from onnx_lowrank.stages.attempt import plan_for
from onnx_lowrank.stages.check import check, check_costs
from onnx_lowrank.stages.count import count
from onnx_lowrank.stages.fit import fit
from onnx_lowrank.stages.keep import seek
from onnx_lowrank.stages.latency_report import measured_report
from onnx_lowrank.stages.measure import measure
from onnx_lowrank.stages.narrow import narrow
from onnx_lowrank.stages.prepared import Basis, Prepared
from onnx_lowrank.stages.profile import profile
from onnx_lowrank.stages.quantise import quantise
from onnx_lowrank.stages.reach import clock, reach
from onnx_lowrank.stages.read import read
from onnx_lowrank.stages.refining import with_refinement
from onnx_lowrank.stages.report import plan_report, report
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import sample, sample_shapes
from onnx_lowrank.stages.steps import steps
from onnx_lowrank.stages.tasks import check_tasks
from onnx_lowrank.stages.variants import variants
from onnx_lowrank.stages.verdict import check_declared, judge
from onnx_lowrank.stages.walk import walk
from onnx_lowrank.stages.widths import measure_widths


@dataclass(frozen=True)
class Result:
    """A factorised model.

    Attributes
    ----------
    model
        The model.
    report
        The report of the run.
    external_data
        Whether the weights of the original stand in files of their own.
    """

    model: onnx.ModelProto
    report: Report
    external_data: bool

    def save(self, path: str | os.PathLike[str], external_data: bool | None = None) -> None:
        """Write the model so that it appears whole or not at all.

        Parameters
        ----------
        path
            The file of the model.
        external_data
            Whether the weights go to a file of their own beside it; None stands for the way of the original.

        Raises
        ------
        EnvironmentFault
            If the file cannot be written.
        """
        write(self.model, Path(path), external_data=self.external_data if external_data is None else external_data)


@without_spinning()
def compress(request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS, shards: int = 1) -> Result:
    """Factorise the convolutions of a model.

    Parameters
    ----------
    request
        The model, the data and the user's choices.
    listener
        Receives the progress and the warnings.
    forms
        The forms that convolutions may take.
    shards
        The number of parts into which the samples are divided; the result does not depend on it.

    Raises
    ------
    LowRankError
        The subclass names the kind of error; see ``errors``. A QualityError holds the report.
    """
    run = Run.start(request, listener, forms, shards)
    with contextlib.ExitStack() as stack:
        if run.solves_several:
            sought = seek(run, look(run, stack))
            run, prepared, walked = sought.run, sought.prepared, sought.walked
        else:
            prepared = narrow(run, prepare(run, stack), stack)
            queue = deque(with_refinement(run, prepared, steps(run, prepared), stack))
            if not run.options.quantize:  # each step holds its own rows, and goes when it is done
                prepared = prepared.without_profile()
            walked = walk(run, prepared.read.network, queue, prepared.shard, held=prepared.target_bytes)
    check_costs(run, prepared, walked.network)
    if run.options.quantize:
        walked, prepared = quantise(run, prepared, walked), prepared.without_profile()
    model = check(run, prepared, walked.network)
    measured = measure(run, prepared, model, variants(run, prepared, walked))
    judged = judge(run, prepared, measured)
    found = report(run, prepared, walked, measured, judged, model)
    if judged.refusal:
        raise QualityError(judged.refusal, found)
    return Result(model, found, prepared.read.loaded.external_data)


@without_spinning()
def plan_only(request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS) -> PlanReport:
    """Profile the original and choose the ranks, without writing anything; see ``compress``.

    Nothing is solved either, unless models of several speedups have to tell what they keep.
    """
    run = Run.start(request, listener, forms)
    with contextlib.ExitStack() as stack:
        if run.solves_several:
            sought = seek(run, look(run, stack))
            return plan_report(sought.run, sought.prepared)
        return plan_report(run, narrow(run, prepare(run, stack), stack))


@without_spinning()
def measure_only(request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS) -> MeasuredReport:
    """Measure everything that a plan by the clock asks for, and keep the times in the latency table; see ``compress``.

    The data may be missing, because only the shapes of the samples count.
    """
    run = Run.start(request, listener, forms)
    model = read(run)
    sampled = sample_shapes(run, model).keyed(model.network.chance)
    counted = count(run, model, sampled)
    return measured_report(clock(run, model, sampled, counted))


def prepare(run: Run, stack: contextlib.ExitStack) -> Prepared:
    """Run the stages up to the plan; ``stack`` closes the shard that holds the samples."""
    return plan_for(run, look(run, stack))


def look(run: Run, stack: contextlib.ExitStack) -> Basis:
    """Run the stages up to the profile; ``stack`` closes the shard that holds the samples."""
    model = read(run)
    for required in filter(None, (run.options.kept, run.options.requirement)):
        check_declared(required, model.outputs)
    sampled = sample(run, model).keyed(model.network.chance)
    check_tasks(run, model, sampled)
    counted = count(run, model, sampled)
    reached = reach(run, model, sampled, counted)
    fitted = fit(run, model, sampled)
    sampled = fitted.sampled
    path = gathered(model.network, counted.families)
    opened = open_shards(path, sampled.sampling, run.open_session, counted.macs.all, run.shards)
    shard = stack.enter_context(opened)
    profiled = profile(run, sampled, counted, reached, shard)
    widths = measure_widths(run, sampled, counted, reached, shard, profiled)
    return Basis(model, sampled, fitted.report, counted, reached, path, shard, profiled, widths)
