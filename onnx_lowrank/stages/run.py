"""What every stage of a run shares: the request, who listens, the table of forms, the clock, the way to open models."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from onnx_lowrank.factorise.forms.table import FORMS, FormTable
from onnx_lowrank.options import Options
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
        What is asked for.
    listener
        Hears of the progress and of warnings.
    forms
        The table of forms.
    kinds
        Those among which the planner may choose.
    open_session
        Opens models with the run's providers and threads.
    shards
        Into how many shards the samples are divided; the result does not depend on it.
    times
        Adds up the seconds of every stage.
    warnings
        All warnings so far, for the report.
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
        """Check what can be checked before anything is read.

        Raises
        ------
        UsageError
            Where the table has no such form, or ONNX Runtime no such provider.
        EnvironmentFault
            Where ONNX Runtime cannot be used.
        """
        options = request.options
        kinds = forms.allowed(options.form)
        warnings: list[str] = []

        def warn(text: str) -> None:
            warnings.append(text)
            listener.warn(text)

        check_installation(warn)
        open_session = opener(options.providers, options.threads, spinning=False)
        return cls(request, Listener(listener.progress, warn), forms, kinds, open_session, shards, warnings=warnings)

    @property
    def options(self) -> Options:
        """The user's choices."""
        return self.request.options

    def warn(self, text: str) -> None:
        """Tell the user something, and note it for the report."""
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
