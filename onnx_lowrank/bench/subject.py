"""The models that a benchmark measures, and the inputs that they run on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnx_lowrank.data.input_shapes import Shapes, with_shapes
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import groups
from onnx_lowrank.data.synthetic.noise import batch_of, made_input
from onnx_lowrank.errors import UsageError
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.graph.find.sample_axes import with_axes
from onnx_lowrank.interface import Feeds, TensorSpec
from onnx_lowrank.report.bench_schema import BenchModel


@dataclass(frozen=True)
class Subject:
    """A model on the stopwatch.

    Attributes
    ----------
    path
        The file.
    specs
        The model's inputs, with the shapes that the user gave.
    report
        What the benchmark's report says of the model.
    """

    path: Path
    specs: tuple[TensorSpec, ...]
    report: BenchModel

    @property
    def batch(self) -> int | None:
        """The number of samples that the model demands; None where it takes any number."""
        return batch_of(self.specs)


@dataclass(frozen=True)
class Inputs:
    """The source of the inputs that the subjects run on.

    Attributes
    ----------
    data
        Samples, as ``data.open.open_source`` takes them; None where inputs are made up.
    preprocess
        How photos become inputs.
    count
        The most samples that a run takes.
    seed
        The seed of inputs that are made up, and of the choice of samples.
    warn
        Receives warnings.
    """

    data: object
    preprocess: Preprocess
    count: int
    seed: int
    warn: Callable[[str], None]

    def batch(self, subject: Subject, size: int) -> tuple[Feeds, str]:
        """Return one batch for a subject, and a description of where it comes from.

        Raises
        ------
        UsageError
            If the model demands another number of samples.
        DataError
            If the data cannot be read, or do not fit the model.
        """
        if subject.batch not in (None, size):
            raise UsageError(
                f"{subject.path} takes batches of {subject.batch}, not {size}: drop --batch, or leave the model out"
            )
        if self.data is None:
            return made_input(subject.specs, size, self.seed, str(subject.path)), "made up"
        source = open_source(
            self.data,
            subject.specs,
            preprocess=self.preprocess,
            count=self.count,
            seed=self.seed,
            on_warning=self.warn,
        )
        numbers = groups(source)
        alike = np.flatnonzero(numbers == numbers[0]).tolist()
        return source.feeds([alike[i % len(alike)] for i in range(size)]), source.description


def open_subjects(models: Sequence[str | Path], shapes: Shapes, *, batches_given: bool) -> tuple[Subject, ...]:
    """Load models.

    Parameters
    ----------
    models
        Paths.
    shapes
        The shapes of inputs that the models leave open, by the input's name; "" is the only input.
    batches_given
        Whether the batch is chosen apart from the shapes, which an open first dimension then ignores.

    Raises
    ------
    ModelError
        If a file is no ONNX model.
    UsageError
        If a shape is for an input that no model has, or contradicts a model.
    """
    subjects = tuple(_open(Path(model), shapes, batches_given=batches_given) for model in models)
    known = {spec.name for subject in subjects for spec in subject.specs}
    for name in shapes:
        if name and name not in known:
            raise UsageError(f"--input-shapes names {name!r}: the inputs are {', '.join(sorted(known))}")
    return subjects


def _open(path: Path, shapes: Mapping[str, tuple[int, ...]], *, batches_given: bool) -> Subject:
    loaded = load(path)
    declared = with_axes(loaded.proto, inputs(loaded.proto))
    names = {"", *(spec.name for spec in declared)}  # the other models may have other inputs
    specs = with_shapes(declared, {name: shape for name, shape in shapes.items() if name in names})
    if batches_given:
        both = zip(declared, specs, strict=True)
        specs = tuple(_with_open_batch(before, after) for before, after in both)
    return Subject(path, specs, BenchModel(str(path), loaded.sha256, loaded.bytes, None))


def _with_open_batch(declared: TensorSpec, given: TensorSpec) -> TensorSpec:
    """Open the dimension that counts samples again if it was open before the user gave the input a shape."""
    axis = declared.axis
    if not declared.shape or not given.shape or axis is None or isinstance(declared.shape[axis], int):
        return given
    return replace(given, shape=(*given.shape[:axis], declared.shape[axis], *given.shape[axis + 1 :]))
