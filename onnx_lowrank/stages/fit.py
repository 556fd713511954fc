"""The stage that compares the samples with what the network was trained on, and settles ``--preprocess auto``.

A wrong preset ruins a result without a trace: the original is just as wrong on these samples as its approximation, so
both agree. Here the presets speak for themselves (``fit_contest``), before the long work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.keyed import Keyed
from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.data.photos.alternatives import Alternative, alternatives, held_by
from onnx_lowrank.data.photos.folder import ImageSource
from onnx_lowrank.data.photos.image_input import takes_images
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.data.synthetic.source import SyntheticSource
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.find.expectations import Expectation, expectations
from onnx_lowrank.graph.find.scores import scores
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.interface import Feeds
from onnx_lowrank.report.fit_schema import FitReport, InputReport, PresetReport
from onnx_lowrank.stages.fit_contest import (
    FEWEST_SAMPLES,
    MOST_SAMPLES,
    Answers,
    Measured,
    Samples,
    are_scores,
    measure_classes,
    measure_norms,
)
from onnx_lowrank.stages.fit_words import arrays_warning, chosen, fits, unclear, warning
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.run import Run
from onnx_lowrank.stages.sample import Sampled

NORMS = 3
"""The number of batch normalisations that are asked: those behind the input, where little has been computed."""


@dataclass(frozen=True)
class Fitted:
    """The samples with the preset that the run goes on with, and what was found out about it.

    Attributes
    ----------
    sampled
        The samples; with ``--preprocess auto`` under the preset that was chosen.
    report
        What was measured.
    """

    sampled: Sampled
    report: FitReport


def fit(run: Run, read: Read, sampled: Sampled) -> Fitted:
    """Compare the preset of the samples with others, and warn if another one fits measurably better.

    The user is warned as well if ``--preprocess auto`` cannot tell the presets apart. Arrays are compared with what
    their values would be under another preset, and never changed.
    """
    with run.stage("fit"):
        batches = _looked_at(sampled)
        inputs = _described(sampled, batches)
        held, automatic = _held(read, sampled, batches, inputs), run.request.parsed_preprocess.automatic
        photos = isinstance(sampled.watched.source, ImageSource)
        found = (
            _measured(run, read, Samples(sampled.source, batches, read.inputs[0].name, held[0]), held) if held else ()
        )
        best = _best(found) if automatic and photos else None
        if best is not None:
            sampled = _under(sampled, best.alternative.preprocess)
            inputs = _described(sampled, batches)
        better = [] if best is not None or not found else _better(found)
        if automatic and photos:
            conclusion = chosen(best, found) if best is not None else unclear()
        elif better and photos:
            conclusion = warning(found[0], better)
        elif better:
            fed = inputs[read.inputs[0].name]
            conclusion = arrays_warning(found[0], better, read.inputs[0].name, (fed.low, fed.high))
        else:
            conclusion = fits(found, photos=photos, synthetic=sampled.source.synthetic)
        if better or (automatic and photos and best is None):
            run.warn(conclusion)
        listed = found if photos or better else ()
        return Fitted(sampled, FitReport(inputs, conclusion, _presets(listed, better)))


def _looked_at(sampled: Sampled) -> Batches:
    """Return the first batches of the calibration samples; those that judge the result are not looked at."""
    sizes = np.cumsum([len(batch) for batch in sampled.sampling.batches])
    return sampled.sampling.batches[: max(1, int(np.searchsorted(sizes, MOST_SAMPLES, side="right")))]


def _described(sampled: Sampled, batches: Batches) -> dict[str, InputReport]:
    """Return what every input of the model is fed, but for the key of its noise."""
    source, values = sampled.watched.source, dict[str, Values]()
    for batch in batches:
        for name, value in sampled.watched.feeds(batch).items():
            values[name] = values.get(name, Values()).with_batch(np.asarray(value))
    return {name: _input(source, name, each, sampled.preprocess.preset) for name, each in values.items()}


@dataclass(frozen=True)
class Values:
    """The smallest and the largest value of an input so far, and whether all of them are finite numbers."""

    low: float = np.inf
    high: float = -np.inf
    numbers: bool = True

    def with_batch(self, values: NDArray[Any]) -> "Values":
        """Return the range with the values of another batch."""
        if not self.numbers or not values.size or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            return Values(numbers=False)
        return Values(min(self.low, float(values.min())), max(self.high, float(values.max())))


def _input(source: Source, name: str, values: Values, preset: str) -> InputReport:
    low, high = (values.low, values.high) if values.numbers else (None, None)
    if isinstance(source, ImageSource):
        return InputReport("photos", preset, low, high)
    if isinstance(source, SyntheticSource):
        images = name in source.images
        return InputReport("made-up images" if images else "made-up noise", preset if images else None, low, high)
    return InputReport("arrays", None, low, high)


def _held(read: Read, sampled: Sampled, batches: Batches, inputs: Mapping[str, InputReport]) -> tuple[Alternative, ...]:
    """Return the preset under which the samples are given, and others; nothing where there is nothing to compare."""
    count = sum(map(len, batches))
    if len(read.inputs) != 1 or sampled.source.synthetic or count < FEWEST_SAMPLES:
        return ()
    (spec,) = read.inputs
    axes = sampled.source.feeds(batches[0])[spec.name].ndim
    if axes != 4:
        return ()
    if isinstance(sampled.watched.source, ImageSource):
        return alternatives(sampled.preprocess, spec)
    fed = inputs[spec.name]
    plain = replace(sampled.preprocess, preset="unit", layout=None, resize="auto", crop="auto", channels="rgb")
    if fed.low is None or fed.high is None or not takes_images(spec, plain):
        return ()
    preprocess = held_by(fed.low, fed.high, spec)
    return () if preprocess is None else alternatives(preprocess, spec)


def _measured(run: Run, read: Read, samples: Samples, held: Sequence[Alternative]) -> tuple[Measured, ...]:
    """Measure the presets by all evidence that the network offers; nothing where it offers none."""
    if len(held) < 2:
        return ()
    try:
        found = {each.name: Measured(each) for each in held}
        expected = _expected(read)
        if expected:
            names = [each.tensor for each in expected]
            session = run.open_session(whole(_unfolded(read), names), "the beginning of the model")

            def channels(feeds: Feeds) -> Answers:
                answers = session(feeds)
                return [answers[name] for name in names]

            by_norms = measure_norms(samples, held, channels, expected)
            found = {each.alternative.name: each for each in by_norms}
        first = held[0].name
        if first not in found:
            return ()
        most = max(each.samples for each in found.values())
        if sum(each.samples == most for each in found.values()) > 1:
            found = _with_classes(run, read, samples, found)
    except ModelError:  # what is asked for here, no other stage needs
        return ()
    if all(each.norms is None and each.classes is None for each in found.values()):
        return ()
    return tuple(found.values())


def _with_classes(run: Run, read: Read, samples: Samples, found: dict[str, Measured]) -> dict[str, Measured]:
    """Return the measurements with those of the classes where the model is a classifier."""
    names = [scores(read.network, spec.name) for spec in read.outputs]
    session = run.open_session(whole(read.network, names), "the model")
    answers = session(samples.under(samples.held, 0))
    fitting = [name for name in dict.fromkeys(names) if are_scores(np.asarray(answers[name]), samples.sizes[0])]
    if len(fitting) != 1:
        return found
    measured = measure_classes(samples, found, lambda feeds: [session(feeds)[fitting[0]]])
    return {each.alternative.name: each for each in measured}


def _unfolded(read: Read) -> Network:
    return Network.from_proto(read.loaded.proto)


def _expected(read: Read) -> tuple[Expectation, ...]:
    if not any(node.op_type == "BatchNormalization" for node in read.loaded.proto.graph.node):
        return ()
    return expectations(_unfolded(read), NORMS)


def _better(found: Sequence[Measured]) -> list[Measured]:
    """Return the best of the presets that fit measurably better than the applied one, and those that equal it."""
    better = sorted(
        (each for each in found[1:] if each.better_than(found[0])), key=lambda each: each.rank, reverse=True
    )
    return [each for each in better if each.samples == better[0].samples and not better[0].better_than(each)]


def _best(found: Sequence[Measured]) -> Measured | None:
    """Return the best preset, that no other one beats measurably; None where the evidence supports none."""
    unbeaten = [each for each in found if each.supported and not any(other.better_than(each) for other in found)]
    return max(unbeaten, key=lambda each: each.rank, default=None)


def _under(sampled: Sampled, preprocess: Preprocess) -> Sampled:
    """Return the samples, the labelled ones too, under another preset."""
    watched = sampled.watched.over(_photos_under(sampled.watched.source, preprocess))

    def under(source: Source) -> Source:
        if isinstance(source, Keyed):
            return replace(source, plain=under(source.plain))
        return watched if source is sampled.watched else _photos_under(source, preprocess)

    labelled = None if sampled.labelled is None else (under(sampled.labelled[0]), sampled.labelled[1])
    sampling = replace(sampled.sampling, source=under(sampled.sampling.source))
    return replace(sampled, sampling=sampling, preprocess=preprocess, watched=watched, labelled=labelled)


def _photos_under(source: Source, preprocess: Preprocess) -> Source:
    return source.under(preprocess) if isinstance(source, ImageSource) else source


def _presets(found: Sequence[Measured], better: Sequence[Measured]) -> tuple[PresetReport, ...]:
    return tuple(
        PresetReport(
            preset=each.alternative.name,
            samples=each.samples,
            divergence=None if each.norms is None else -each.norms.value,
            contrast=each.classes.contrast if each.classes else None,
            dependence=each.classes.dependence if each.classes else None,
            confidence=each.classes.confidence if each.classes else None,
            information=each.classes.information if each.classes else None,
            better=each in better,
        )
        for each in found
    )
