"""The surroundings that all stages of one run share."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from onnx_lowrank.factorise.forms.table import FORMS, FormTable
from onnx_lowrank.options import Options
from onnx_lowrank.plan.quality_search import LEAST_SPEEDUP
from onnx_lowrank.progress import NOBODY, Listener
from onnx_lowrank.runtime.providers import check_installation
from onnx_lowrank.runtime.session import Opener, opener
from onnx_lowrank.stages.request import Request
from onnx_lowrank.stages.resources import StageTimes


@dataclass(frozen=True)
class Run:
    """The surroundings of one run.

    Attributes
    ----------
    request
        The model, the data and what the user chose.
    listener
        Receives the progress and the warnings.
    forms
        The table of forms.
    kinds
        The forms among which the planner may choose; none where layers may only lose channels.
    open_session
        Opens models with the run's providers and threads.
    shards
        The number of shards among which the samples are divided; the result does not depend on it.
    times
        Adds up the seconds of every stage.
    warnings
        All warnings up to now, for the report.
    """

    request: Request
    listener: Listener
    forms: FormTable
    kinds: FormTable
    open_session: Opener
    shards: int = 1
    times: StageTimes = field(default_factory=StageTimes)
    warnings: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, request: Request, listener: Listener = NOBODY, forms: FormTable = FORMS, shards: int = 1) -> "Run":
        """Check everything that can be checked before the model is read.

        Raises
        ------
        UsageError
            If the table does not hold the form, or ONNX Runtime the provider, that the options name.
        EnvironmentFault
            If ONNX Runtime cannot be used.
        """
        if request.options.keep is not None:  # No speedup was asked for, so every worthwhile one is good enough.
            request = replace(request, options=replace(request.options, speedup=LEAST_SPEEDUP))
        options, warnings = request.options, list[str]()
        kinds = forms.allowed(options.form) if options.width != "only" else FormTable(())
        check_installation(warnings.append)
        open_session = opener(options.providers, options.threads, spinning=False)
        run = cls(request, listener, forms, kinds, open_session, shards)
        for text in warnings:
            run.warn(text)
        return run

    @property
    def options(self) -> Options:
        """The user's choices."""
        return self.request.options

    @property
    def solves_several(self) -> bool:
        """Whether models of several speedups are solved."""
        return self.options.keep is not None or self.options.curve

    @property
    def rounds_alone(self) -> bool:
        """Whether a network is to be rounded and stays otherwise as it is."""
        return self.options.quantize is not None and self.options.speedup == 1

    def asking(self, speedup: float) -> "Run":
        """Return the surroundings of a run that asks for another speedup; the times and the warnings stay shared."""
        return replace(self, request=replace(self.request, options=replace(self.options, speedup=speedup)))

    def warn(self, text: str) -> None:
        """Warn the user, and note the warning for the report."""
        self.warnings.append(text)
        self.listener.warn(text)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` steps of a stage are finished."""
        self.listener.progress(stage, done, total)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage that has no steps of its own, and report its beginning and its end."""
        self.progress(name, 0, 1)
        with self.times.stage(name):
            yield
        self.progress(name, 1, 1)
