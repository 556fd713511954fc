"""The choices of a user, with their defaults, checked in one place."""

import contextlib
import math
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

import numpy as np

from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms import table
from onnx_lowrank.measures.table import HEAD_CHOICES, TASK_CHOICES
from onnx_lowrank.quality import Requirement, parse_kept, parse_requirement

AUTO = table.AUTO
"""The choice that is left to the tool: of the form, or of the rank multiple."""
FILLED_BLOCKS = "blocks"
"""The rank multiple that fills the blocks of channels of all processors."""
FORM_CHOICES = (AUTO, *table.FORMS.names)
WIDTHS = ("auto", "none", "only")
SOLVERS = ("nonlinear", "linear", "weights")
ALLOCATION_CHOICES = ("exact", "greedy", "uniform")
OBJECTIVES = ("outputs", "energies")
TARGETS = ("macs", "latency")
PRESET_CHOICES = ("tensorrt", "tensorrt-int8", "ort-cpu", "openvino")
INTEGERS = ("int8",)
GIB = 1 << 30
MOST_THREADS = 4096
"""More threads than any machine runs, and few enough for ONNX Runtime to accept."""


def _is_number(value: object) -> bool:
    with contextlib.suppress(OverflowError):
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(float(value))
    return False


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool | np.bool_ | Integral) and value in (0, 1)


def _is_names(value: object) -> bool:
    return isinstance(value, tuple | list) and all(map(_is_text, value))


def _is_shapes(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and isinstance(shape, tuple | list) and all(map(_is_whole, shape))
        for name, shape in value.items()
    )


_TYPES: tuple[tuple[tuple[str, ...], Callable[[object], bool], str], ...] = (
    (("speedup",), _is_number, "a number, such as 2.5"),
    (("images", "seed", "threads"), _is_whole, "a whole number"),
    (("refine",), lambda value: _is_whole(value) or _is_text(value), "a whole number or 'auto'"),
    (("memory",), _is_number, "a number of bytes, such as 4 * 2**30"),
    (("form", "width", "solver", "ranks", "objective", "target", "task", "boxes"), _is_text, "a name as text"),
    (("symmetric", "residual", "refit", "include_gemm", "curve"), _is_flag, "True or False"),
    (("providers",), _is_names, 'a tuple of names, such as ("cuda", "cpu")'),
    (("input_shapes",), _is_shapes, 'shapes by the names of the inputs, such as {"x": (1, 3, 224, 224)}'),
)
"""Options that must be given, with what they must be."""

_OPTIONAL_TYPES: tuple[tuple[tuple[str, ...], Callable[[object], bool], str], ...] = (
    (("preset", "latency_device", "quantize"), _is_text, "a name, or None"),
    (("include", "exclude"), _is_text, "one regular expression, such as 'conv1|conv2', or None"),
    (("latency_table",), _is_path, "the path of a file, or None"),
    (("latency_batch",), _is_whole, "a whole number, or None"),
    (("rank_multiple",), lambda value: _is_whole(value) or _is_text(value), "a whole number, 'blocks', 'auto' or None"),
)
"""Options that may be None."""


@dataclass(frozen=True)
class Options:
    """The choices of one run.

    Attributes
    ----------
    speedup
        The factor, at least 1, by which the result must be cheaper than the original. With the target "macs" it is the
        ratio of the multiply-accumulates (MACs) of all convolutions, and with ``include_gemm`` of the fully connected
        layers among them. With the target "latency" it is the ratio of the times of the whole model.
    target
        The cost that ``speedup`` reduces: "macs", or "latency", which is measured with ``providers`` and ``threads``.
    form
        How a convolution is split: the name of a form (see ``factorise.forms.table``), or "auto", which takes the best
        form for every layer. The table of forms that a run is given decides which names there are.
    width
        Whether layers may lose channels: "auto" chooses widths and ranks together, "none" keeps all channels, "only"
        leaves the layers otherwise whole.
    solver
        "nonlinear" fits the responses behind the activation (paper §2.3), and is kept for a layer only if it beats
        "linear" on held-out samples; "linear" fits the responses themselves (§2.2); "weights" truncates the singular
        value decomposition of the kernel without looking at data, which serves as a baseline.
    symmetric
        Whether every layer is solved on the inputs that the original network gives it (§2.2), and not on those that the
        factorised layers before it deliver, part of whose error it then corrects (asymmetric, §2.4).
    residual
        Whether a convolution whose response is added to a shortcut is solved for the activation of the sum, and not
        linearly, as if nothing were added.
    refit
        Whether the fully connected layers behind factorised convolutions are fitted again, where held-out samples gain
        by it. The solver "weights" and ``symmetric`` never refit.
    refine
        The number of steps in which a few neighbouring layers are refined together, where held-out samples gain.
        "auto" refines where the plan lost much in rehearsals. "weights" and ``symmetric`` never refine.
    include_gemm
        Whether fully connected layers, which are Gemm and MatMul by a constant matrix, are factorised as well.
    ranks
        The way in which the layers share the budget: "exact" maximises the kept energy, "greedy" is the heuristic of
        the paper (§2.5), "uniform" reduces all layers by the same ratio.
    objective
        What the plan preserves: "energies" takes all layers as equally important (§2.5); "outputs" weighs the energy
        that each layer loses by what this does to the outputs of the network, as measured in rehearsals on a few
        samples. The solver "weights" always plans by energies.
    rank_multiple
        The number that divides every rank. "blocks" takes 16, or 8 in layers that are too small for it, and less where
        the speedup cannot be had otherwise (see ``factorise.forms.rank_multiple``). 1 gives the ranks of the paper.
        "auto" measures which multiple pays on this machine. None is "auto" with the target "latency", else "blocks".
    quantize, preset
        "int8" rounds weights and activations to 8 bits as well, for the runtime that ``preset`` names; None does not.
        The runtime is one of ``PRESET_CHOICES``, or None; see ``presets``.
    include, exclude
        Regular expressions that are searched in the names of the nodes.
    images
        The number of calibration samples that are taken from the data. A fifth of them judges the result alone.
    require
        What the result has to keep in order to be written, such as "agreement=0.95" or "error=0.02" (see ``quality``).
        "none" accepts any result, and None stands for "error=0.5", above which a result is ruined.
    task
        What the outputs are for, which decides how a result is measured: one of ``TASK_CHOICES``, or "auto".
    boxes
        The head of a detector: one of ``HEAD_CHOICES``. Any but "auto" implies the task "detection".
    keep
        The quality that decides the speedup, such as "agreement=0.99": the result is the fastest model that keeps it.
    curve
        Whether models of other speedups around the result are solved as well, to show what a speedup costs.
    input_shapes
        Shapes by the input's name, for sizes that the model leaves open. The name "" stands for the only input.
    seed
        The seed for all random choices.
    memory
        The number of bytes that the calibration may hold for activations and sampled rows.
    providers
        ONNX Runtime execution providers in order of preference: "cpu", "cuda", "tensorrt" or full names. The first one
        must run on this machine; nodes that it does not support run on the next one, and finally on the CPU.
    threads
        The number of threads of ONNX Runtime; 0 leaves it to the runtime.
    latency_table
        The file from which measured times are read and to which new ones are added. Without a file they are forgotten.
    latency_device
        The device of the latency table to plan for, without measuring; None stands for this machine.
    latency_batch
        The number of samples in a measured run; None stands for 1, or for the number that the model demands.
    """

    speedup: float = 4.0
    form: str = "auto"
    width: str = "auto"
    solver: str = "nonlinear"
    symmetric: bool = False
    residual: bool = True
    refit: bool = True
    refine: int | str = AUTO
    include_gemm: bool = False
    ranks: str = "exact"
    target: str = "macs"
    objective: str = "outputs"
    rank_multiple: int | str | None = None
    quantize: str | None = None
    preset: str | None = None
    include: str | None = None
    exclude: str | None = None
    images: int = 300
    require: str | None = None
    task: str = AUTO
    boxes: str = AUTO
    keep: str | None = None
    curve: bool = False
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    memory: int = 4 * GIB
    providers: tuple[str, ...] = ("cpu",)
    threads: int = 0
    latency_table: str | None = None
    latency_device: str | None = None
    latency_batch: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        if self.speedup < 1:
            raise UsageError(f"speedup is {self.speedup:g}: give a number of at least 1")
        for name, value, allowed in (
            ("width", self.width, WIDTHS),
            ("solver", self.solver, SOLVERS),
            ("ranks", self.ranks, ALLOCATION_CHOICES),
            ("objective", self.objective, OBJECTIVES),
            ("target", self.target, TARGETS),
            ("preset", self.preset, (*PRESET_CHOICES, None)),
            ("quantize", self.quantize, (*INTEGERS, None)),
            ("task", self.task, TASK_CHOICES),
            ("boxes", self.boxes, HEAD_CHOICES),
        ):
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}: choose one of {', '.join(filter(None, allowed))}")
        for name, pattern in (("include", self.include), ("exclude", self.exclude)):
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise UsageError(f"{name} is {pattern!r}, which is not a regular expression: {error}") from None
        if self.images < 1:
            raise UsageError(f"images is {self.images}: give at least 1, and a few hundred for good ranks")
        parse_requirement(self.require)
        if self.boxes != AUTO and self.task not in (AUTO, "detection"):
            raise UsageError(f"boxes is {self.boxes!r}, which the task {self.task} has none of: drop one of the two")
        if (parse_kept(self.keep) or self.curve) and self.quantize:
            raise UsageError("keep and curve seek among models in floating point: drop them, or quantize")
        for name, shape in self.input_shapes.items():
            if min(shape, default=1) < 1:
                raise UsageError(f"input_shapes has {list(shape)} for {name or 'the input'!r}: sizes start at 1")
        if self.refine != AUTO and (not isinstance(self.refine, int) or self.refine < 0):
            raise UsageError(f"refine is {self.refine}: give a number of steps, 0 for none, or auto")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}: give a number of at least 0")
        if self.memory < 1 << 20:
            raise UsageError(f"memory is {self.memory} bytes: give at least 1MiB")
        if not 0 <= self.threads <= MOST_THREADS:
            raise UsageError(f"threads is {self.threads}: give 0 (the runtime's own choice) to {MOST_THREADS}")
        multiple = 1 if self.rank_multiple in (None, FILLED_BLOCKS, AUTO) else self.rank_multiple
        if not isinstance(multiple, int) or multiple < 1:
            raise UsageError(f"rank_multiple is {multiple}: give a whole number of at least 1, blocks or auto")
        if self.target == "latency" and self.include_gemm:
            raise UsageError("the target latency is for convolutions only: drop include_gemm, or take the target macs")
        if self.latency_batch is not None and self.latency_batch < 1:
            raise UsageError(f"latency_batch is {self.latency_batch}: give at least 1")
        if self.latency_device is not None and self.latency_table is None:
            raise UsageError("latency_device names a device of a latency table: name the table with latency_table")
        if not self.providers:
            raise UsageError("providers is empty: name at least one, for example cpu")

    def _check_types(self) -> None:
        """Refuse values of other types, and bring numbers of NumPy and other libraries to Python's own."""
        for types, may_be_none in ((_TYPES, False), (_OPTIONAL_TYPES, True)):
            for names, fits, wanted in types:
                for name in names:
                    value = getattr(self, name)
                    if not (fits(value) or (may_be_none and value is None)):
                        raise UsageError(f"{name} is {reprlib.repr(value)}: give {wanted}")
        object.__setattr__(self, "speedup", float(self.speedup))
        for name in ("images", "seed", "threads", "refine", "memory", "latency_batch", "rank_multiple"):
            if isinstance(getattr(self, name), Real):
                object.__setattr__(self, name, int(getattr(self, name)))
        if self.latency_table is not None:
            object.__setattr__(self, "latency_table", os.fspath(self.latency_table))
        for name in ("symmetric", "residual", "refit", "include_gemm", "curve"):
            object.__setattr__(self, name, bool(getattr(self, name)))

    @property
    def resolved_rank_multiple(self) -> int | str:
        """The rank multiple, a number, ``FILLED_BLOCKS`` or ``AUTO``."""
        if self.rank_multiple is not None:
            return self.rank_multiple
        return AUTO if self.target == "latency" else FILLED_BLOCKS

    @property
    def requirement(self) -> Requirement:
        """What the result has to keep."""
        return parse_requirement(self.require)

    @property
    def kept(self) -> Requirement | None:
        """The quality that decides the speedup; None where a speedup was asked for."""
        return parse_kept(self.keep)

    @property
    def needs_measurement(self) -> bool:
        """Whether the run measures the times of layers."""
        return self.target == "latency" or self.resolved_rank_multiple == AUTO


DEFAULTS = Options()
"""The defaults that the command line and ``compress`` share."""
