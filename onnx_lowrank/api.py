"""The Python interface: one function that takes every option as a keyword."""

import difflib
import functools
import inspect
import os
import reprlib
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from onnx_lowrank import pipeline
from onnx_lowrank.data.input_shapes import parse_shapes
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.errors import UsageError
from onnx_lowrank.options import DEFAULTS, Options
from onnx_lowrank.plan.plan import Plan
from onnx_lowrank.presets import with_preset
from onnx_lowrank.progress import Listener, Progress, Warn, ignore, silent
from onnx_lowrank.stages.request import ModelLike, Request

P = ParamSpec("P")
R = TypeVar("R")


def _names_checked(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse a keyword that the function does not have, with the nearest ones, as a ``UsageError``."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs.keys() - set(known):
            nearest = difflib.get_close_matches(name, known, 2)
            hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"the options are {', '.join(known[2:])}"
            raise UsageError(f"{name} is not an option of {function.__name__}: {hint}")
        return function(*args, **kwargs)

    return checked


@_names_checked
def compress(
    model: ModelLike,
    data: object = None,
    speedup: float | None = None,
    *,
    target: str = DEFAULTS.target,
    rank_multiple: int | str | None = DEFAULTS.rank_multiple,
    preprocess: Preprocess | str = "imagenet",
    form: str = DEFAULTS.form,
    solver: str = DEFAULTS.solver,
    symmetric: bool = DEFAULTS.symmetric,
    residual: bool = DEFAULTS.residual,
    refit: bool = DEFAULTS.refit,
    refine: int | str = DEFAULTS.refine,
    include_gemm: bool = DEFAULTS.include_gemm,
    ranks: str = DEFAULTS.ranks,
    objective: str = DEFAULTS.objective,
    width: str = DEFAULTS.width,
    quantize: str | None = DEFAULTS.quantize,
    preset: str | None = DEFAULTS.preset,
    include: str | None = DEFAULTS.include,
    exclude: str | None = DEFAULTS.exclude,
    images: int = DEFAULTS.images,
    require: str | None = DEFAULTS.require,
    task: str = DEFAULTS.task,
    boxes: str = DEFAULTS.boxes,
    keep: str | None = DEFAULTS.keep,
    curve: bool = DEFAULTS.curve,
    input_shapes: Mapping[str, tuple[int, ...]] | str = DEFAULTS.input_shapes,
    seed: int = DEFAULTS.seed,
    memory: int = DEFAULTS.memory,
    providers: tuple[str, ...] = DEFAULTS.providers,
    threads: int = DEFAULTS.threads,
    latency_table: str | None = DEFAULTS.latency_table,
    latency_device: str | None = DEFAULTS.latency_device,
    latency_batch: int | None = DEFAULTS.latency_batch,
    plan: Plan | None = None,
    test: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
    warn: Warn = ignore,
) -> pipeline.Result:
    """Factorise the convolutions of an ONNX model.

    Every option is a keyword, so that a call names only those it changes and an editor can complete them; that is why
    the function has so many parameters.

    Parameters
    ----------
    model
        A path or a loaded model, which is not changed.
    data
        Calibration samples: a folder of photos, .npy or .npz files, an array or a dict of arrays [n, ...] (lists where
        the samples differ in shape), an ONNX Runtime ``CalibrationDataReader``, or any iterable of feeds. None stands
        for synthetic images.
    speedup
        The ratio of the conv MACs before and after; with ``include_gemm`` the MACs of fully connected layers count as
        well. With the target "latency" it is the ratio of the times of a run. None stands for 4, or for what ``keep``
        makes of it.
    preprocess
        The preprocessing of photos, for example "imagenet" or "caffe,resize=none"; "auto" chooses it by measuring.
    target, rank_multiple, form, width, solver, symmetric, residual, refit, include_gemm, ranks, objective, include,
    exclude
        See ``Options``.
    images, refine, seed
        See ``Options``.
    require
        A floor for the top-1 agreement ("agreement=0.95") or a ceiling for the centred error ("error=0.02") of the
        outputs, or a limit for another of the ``quality.MEASURES``. A result that misses it raises QualityError. "none"
        accepts any result; None stands for "error=0.5".
    task, boxes
        See ``Options``.
    keep
        A quality in place of a speedup: "agreement=0.99", "error=0.01", or "accuracy=0.5", the points that may be lost
        on ``test``. The result is the fastest model that keeps it.
    curve
        Whether models of other speedups around the result are solved as well, for ``report.trade_off``.
    quantize
        "int8" rounds weights and activations to 8 bits as well, as the runtime that ``preset`` names wants them, and
        ONNX Runtime on a processor without one. With the speedup 1 this is all that happens.
    preset
        "tensorrt" or "tensorrt-int8" changes some of the options that are at their default; see ``presets``.
    input_shapes
        Sizes that the model leaves open, by the input's name, or as text: "x:1,3,224,224".
    memory, providers, threads, latency_table, latency_device, latency_batch
        See ``Options``.
    plan
        Forms and ranks that replace the search; no preset changes them.
    test
        Samples with labelled classes, boxes or masks, on which both models are measured; nothing else uses them.
    progress, warn
        Functions that receive progress and warnings.

    Returns
    -------
    Result
        It holds ``.model`` and ``.report``, and ``.save(path)`` writes the model.

    Raises
    ------
    LowRankError
        The subclass names the kind of error: UsageError, ModelError, DataError, TargetError, ValidationError,
        EnvironmentFault or QualityError, which holds the report. The text is one line on what is wrong, where, and what
        to do.
    """
    if keep is not None and speedup is not None:
        raise UsageError("keep decides the speedup: drop speedup or keep")
    options = Options(
        speedup=DEFAULTS.speedup if speedup is None else speedup,
        target=target,
        rank_multiple=rank_multiple,
        form=form,
        solver=solver,
        symmetric=symmetric,
        residual=residual,
        refit=refit,
        refine=refine,
        include_gemm=include_gemm,
        ranks=ranks,
        objective=objective,
        width=width,
        quantize=quantize,
        preset=preset,
        include=include,
        exclude=exclude,
        images=images,
        require=require,
        task=task,
        boxes=boxes,
        keep=keep,
        curve=curve,
        input_shapes=parse_shapes([input_shapes]) if isinstance(input_shapes, str) else input_shapes,
        seed=seed,
        memory=memory,
        providers=providers,
        threads=threads,
        latency_table=latency_table,
        latency_device=latency_device,
        latency_batch=latency_batch,
    )
    for name, function in (("progress", progress), ("warn", warn)):
        if not callable(function):
            raise UsageError(f"{name} is {reprlib.repr(function)}: give a function")
    if plan is None:  # a plan has its own forms and ranks
        options = with_preset(options)
    request = Request(model, data, options, preprocess, plan, test)
    return pipeline.compress(request, Listener(progress, warn))
