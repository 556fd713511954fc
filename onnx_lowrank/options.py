"""What a user can choose, with the defaults, checked once in one place."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.table import AUTO, FORMS

FORM_CHOICES = (AUTO, *FORMS.names)

SOLVERS = ("nonlinear", "linear", "weights")
ALLOCATION_CHOICES = ("exact", "greedy", "uniform")
TARGETS = ("macs", "latency")
PRESET_CHOICES = ("tensorrt", "tensorrt-int8")

GIB = 1 << 30

MOST_THREADS = 4096
"""More than any machine runs, and a number that the runtime can hold."""


@dataclass(frozen=True)
class Options:
    """The choices of one run.

    Attributes
    ----------
    speedup
        The multiply-accumulates (MACs) of all convolutions before, over those after; with ``include_gemm`` those of
        convolutions and fully connected layers together; or, with the target "latency", the time of the whole model. At
        least 1.
    target
        What ``speedup`` is about: "macs", or "latency", measured here with the providers and threads below.
    form
        How a convolution is split: the name of a form (see ``factorise.forms.table``), or "auto", which takes the best
        form for every layer. The table of forms that a run is given decides which names there are.
    solver
        "nonlinear" (paper §2.3; kept for a layer only where it beats "linear" on held-out samples), "linear" (§2.2),
        or "weights": the truncated SVD of the kernel, which looks at no data; a baseline to compare with.
    symmetric
        Solve every layer on the original network's inputs, ignoring the error of the layers before it (§2.2);
        the default is asymmetric (§2.4).
    residual
        Solve a convolution that a shortcut joins for the activation of the sum, absorbing the shortcut's error too;
        without, it is solved linearly, as if nothing were added.
    refit
        Fit the fully connected layers behind factorised convolutions again, to undo part of their error; kept for a
        layer only where held-out samples gain. Never done where ``symmetric``, or by the solver "weights".
    include_gemm
        Factorise fully connected layers, too: Gemm, and MatMul by a constant matrix.
    ranks
        How the budget is shared: "exact" maximises the kept energy, "greedy" does as the paper (§2.5), "uniform"
        takes the same ratio everywhere.
    rank_multiple
        What every rank is a multiple of. Processors compute channels in groups, of 8 or 16 for example, and a group
        that is not full takes as long as a full one. "auto" measures which multiple pays on this machine; None is
        "auto" for the target "latency" and 1 for "macs".
    preset
        Where the result will run, one of ``PRESET_CHOICES``, or None: what to know there is told. The options that the
        preset stands for are in ``presets``.
    include, exclude
        Regular expressions searched in the names of the nodes.
    images
        The number of calibration samples taken from the data.
    input_shapes
        By the input's name ("" is the only one), for sizes that the model leaves open, the batch included.
    seed
        Of every random choice.
    memory
        Bytes that the calibration may hold for activations and sampled rows; what does not fit is recomputed
        or goes to a temporary file.
    providers
        ONNX Runtime execution providers in order of preference: "cpu", "cuda", "tensorrt" or full names. The first one
        must run on this machine; nodes that it does not know run on the next, and at last on the CPU.
    threads
        Threads of ONNX Runtime; 0 leaves it to the runtime.
    latency_table
        The file where measured times are kept, read and added to; None: they are forgotten.
    latency_device
        Plan for this device of the latency table and measure nothing; None: for the machine at hand.
    latency_batch
        Samples in a run whose time is measured; None: one, or as many as the model demands.
    """

    speedup: float = 4.0
    form: str = "auto"
    solver: str = "nonlinear"
    symmetric: bool = False
    residual: bool = True
    refit: bool = True
    include_gemm: bool = False
    ranks: str = "exact"
    target: str = "macs"
    rank_multiple: int | str | None = None
    preset: str | None = None
    include: str | None = None
    exclude: str | None = None
    images: int = 300
    input_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    seed: int = 0
    memory: int = 4 * GIB
    providers: tuple[str, ...] = ("cpu",)
    threads: int = 0
    latency_table: str | None = None
    latency_device: str | None = None
    latency_batch: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.speedup) and self.speedup >= 1):
            raise UsageError(f"speedup is {self.speedup:g}: give a number of at least 1")
        for name, value, allowed in (
            ("solver", self.solver, SOLVERS),
            ("ranks", self.ranks, ALLOCATION_CHOICES),
            ("target", self.target, TARGETS),
            ("preset", self.preset, (*PRESET_CHOICES, None)),
        ):
            if value not in allowed:
                raise UsageError(f"{name} is {value!r}: choose one of {', '.join(filter(None, allowed))}")
        for name, pattern in (("include", self.include), ("exclude", self.exclude)):
            try:
                re.compile(pattern or "")
            except re.error as error:
                raise UsageError(f"{name} is {pattern!r}, which is no regular expression: {error}") from None
        if self.images < 1:
            raise UsageError(f"images is {self.images}: give at least 1, and a few hundred for good ranks")
        for name, shape in self.input_shapes.items():
            if min(shape, default=1) < 1:
                raise UsageError(f"input_shapes has {list(shape)} for {name or 'the input'!r}: sizes start at 1")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}: give a number of at least 0")
        if self.memory < 1 << 20:
            raise UsageError(f"memory is {self.memory} bytes: give at least 1MiB")
        if not 0 <= self.threads <= MOST_THREADS:
            raise UsageError(f"threads is {self.threads}: give 0 (the runtime's own choice) to {MOST_THREADS}")
        multiple = 1 if self.rank_multiple in (None, AUTO) else self.rank_multiple
        if not isinstance(multiple, int) or multiple < 1:
            raise UsageError(f"rank_multiple is {multiple}: give a whole number of at least 1, or auto")
        if self.target == "latency" and self.include_gemm:
            raise UsageError("the target latency is for convolutions alone: drop include_gemm, or take the target macs")
        if self.latency_batch is not None and self.latency_batch < 1:
            raise UsageError(f"latency_batch is {self.latency_batch}: give at least 1")
        if self.latency_device is not None and self.latency_table is None:
            raise UsageError("latency_device names a device of a latency table: name the table, too")
        if not self.providers:
            raise UsageError("providers is empty: name at least one, for example cpu")

    @property
    def resolved_rank_multiple(self) -> int | str:
        """The rank multiple, a number or ``AUTO``."""
        if self.rank_multiple is not None:
            return self.rank_multiple
        return AUTO if self.target == "latency" else 1

    @property
    def needs_measurement(self) -> bool:
        """Whether layers are measured."""
        return self.target == "latency" or self.resolved_rank_multiple == AUTO


DEFAULTS = Options()
"""Stated once: the command line and ``compress`` take theirs from here."""
