"""The stage that opens the calibration data and divides the samples by their roles: to solve, to choose, to judge."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from onnx_lowrank.calibration.keyed import Always, Keyed, without_noise
from onnx_lowrank.calibration.sampling import Sampling, demanded_batch, split
from onnx_lowrank.calibration.sizes import check_sizes
from onnx_lowrank.calibration.together import Together, run_together
from onnx_lowrank.data.input_shapes import with_shapes
from onnx_lowrank.data.labelled import Labelled, load_test, task_of
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.data.watched import Watched
from onnx_lowrank.graph.chance import Chance
from onnx_lowrank.graph.files.load import opset
from onnx_lowrank.interface import TensorSpec
from onnx_lowrank.presets import advice
from onnx_lowrank.stages.accuracy import check_labelled
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.run import Run

SYNTHETIC = (
    "there are no calibration data, so made-up ones take their place ({}): expect a worse result than with real ones; "
    "give --data a few hundred samples such as the model will see, without labels"
)

SAMPLES_TO_MEASURE = 8
"""The number of samples of which only the shapes count, for a model that demands no larger batch."""


@dataclass(frozen=True)
class Sampled:
    """The samples of a run.

    Attributes
    ----------
    sampling
        The calibration samples.
    preprocess
        The preprocessing of photos.
    watched
        The source of the samples, which notes those that add nothing as they are read.
    output_axes
        The dimension that counts the samples, by output, as far as two samples in one run have shown it.
    labelled
        The labelled samples of ``--test``; None where there are none.
    """

    sampling: Sampling
    preprocess: Preprocess
    watched: Watched
    output_axes: Mapping[str, int | None]
    labelled: Labelled | None = None

    def keyed(self, chance: Chance | None) -> "Sampled":
        """Return the same samples with a key for every batch, where a network computes noise from it."""
        if chance is None:
            return self
        sampling, labelled = self.sampling, self.labelled
        source = Keyed(sampling.source, chance, without_noise(sampling.batches), sampling.seed)
        if labelled is not None:
            labelled = (Keyed(labelled[0], chance, frozenset(), sampling.seed), labelled[1])
        return replace(self, sampling=replace(sampling, source=source), labelled=labelled)

    @property
    def labelled_task(self) -> str | None:
        """The task that the labels are for; None for class numbers, which serve the accuracy, and without labels."""
        return task_of(self.labelled[1]) if self.labelled else None

    @property
    def source(self) -> Source:
        """The source of the calibration samples."""
        return self.sampling.source


def sample(run: Run, read: Read) -> Sampled:
    """Open the calibration data and the labelled samples.

    The user is warned of made-up data, and of inputs that the runtime of a preset cannot take.

    Raises
    ------
    DataError, UsageError
        If the samples cannot be read or do not fit the model.
    """
    with run.stage("data"):
        specs = with_shapes(read.inputs, run.options.input_shapes)
        sampled = _open(run, read, specs, run.options.images, run.options.images // 2 * run.solves_several)
        source, sampling = sampled.source, sampled.sampling
        if source.synthetic:
            run.warn(SYNTHETIC.format(source.description))
        smallest = {name: value.shape for name, value in source.feeds(sampling.single).items()}
        for text in advice(run.options.preset, opset(read.loaded.proto), specs, smallest):
            run.warn(text)
        test = run.request.test
        if not test:
            return sampled
        # The labelled samples are used at the very end, but they are checked before the long work.
        labelled = load_test(test, specs, sampled.preprocess, on_warning=run.warn)
        check_labelled(labelled, read.outputs[0], sampling)
        return replace(sampled, labelled=labelled)


def sample_shapes(run: Run, read: Read) -> Sampled:
    """Open a few samples of which only the shapes count, so that made-up ones serve as well as any.

    Raises
    ------
    DataError, UsageError
        As ``sample`` does.
    """
    with run.stage("data"):
        specs = with_shapes(read.inputs, run.options.input_shapes)
        return _open(run, read, specs, max(SAMPLES_TO_MEASURE, demanded_batch(specs) or 0))


def _open(run: Run, read: Read, specs: tuple[TensorSpec, ...], count: int, beyond: int = 0) -> Sampled:
    request, options = run.request, run.options
    preprocess = request.parsed_preprocess.settled
    source = open_source(
        request.data, specs, preprocess=preprocess, count=count + beyond, seed=options.seed, on_warning=run.warn
    )
    watched = Watched(source, {spec.name: spec.axis for spec in specs})
    chance = read.network.chance
    # Noise would differ between samples that run together and alone.
    still = Keyed(source, chance, Always(), options.seed) if chance else source
    together = Together(True, {})
    if demanded_batch(specs) is None:
        reading = [site.input for site in (*read.layers.sites, *read.layers.first)]
        together = run_together(read.network, still, run.open_session, reading)
    first = count if run.solves_several else None
    sampling = split(watched, specs, options.seed, together=together.runs, first=first)
    check_sizes(read.network, replace(sampling, source=still), run.open_session)
    return Sampled(sampling, preprocess, watched, together.axes)
