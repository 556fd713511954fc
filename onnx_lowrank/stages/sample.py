"""Sample: the calibration data, divided into samples that solve, that judge and that validate."""

from dataclasses import dataclass

from onnx_lowrank.calibration.sampling import Sampling, split
from onnx_lowrank.data.input_shapes import with_shapes
from onnx_lowrank.data.labels import Labelled, load_labelled
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.data.source import Source
from onnx_lowrank.graph.files.load import opset
from onnx_lowrank.presets import advice
from onnx_lowrank.stages.accuracy import check_labelled
from onnx_lowrank.stages.read import Read
from onnx_lowrank.stages.run import Run

SYNTHETIC = (
    "there are no calibration data, so made-up ones take their place ({}): expect a worse result than with real ones; "
    "give --data a few hundred samples such as the model will see, without labels"
)

SAMPLES_TO_MEASURE = 8
"""Samples whose shapes alone count: enough for a model that demands a batch."""


@dataclass(frozen=True)
class Sampled:
    """The samples of a run.

    Attributes
    ----------
    sampling
        The calibration samples.
    preprocess
        How photos become inputs.
    labelled
        The labelled samples of ``--test``; None where there are none.
    """

    sampling: Sampling
    preprocess: Preprocess
    labelled: Labelled | None = None

    @property
    def source(self) -> Source:
        """Where the samples come from."""
        return self.sampling.source


def sample(run: Run, read: Read) -> Sampled:
    """Open the calibration data and the labelled samples, and say what the user should know of them.

    Raises
    ------
    DataError, UsageError
        Where they cannot be read or do not fit the model.
    """
    with run.stage("data"):
        sampled = _open(run, read, run.options.images)
        source, sampling = sampled.source, sampled.sampling
        if source.synthetic:
            run.warn(SYNTHETIC.format(source.description))
        specs = with_shapes(read.inputs, run.options.input_shapes)
        smallest = {name: value.shape for name, value in source.feeds(sampling.single).items()}
        for text in advice(run.options.preset, opset(read.loaded.proto), specs, smallest):
            run.warn(text)
        test = run.request.test
        if not test:
            return sampled
        # The labelled samples are used at the very end, but what is wrong with them is said before the long work.
        labelled = load_labelled(test, specs, sampled.preprocess, on_warning=run.warn)
        check_labelled(labelled, read.outputs[0], sampling)
        return Sampled(sampling, sampled.preprocess, labelled)


def sample_shapes(run: Run, read: Read) -> Sampled:
    """Open a few samples, whose shapes count and not what they hold; made-up ones will do.

    Raises
    ------
    DataError, UsageError
        Where they cannot be read or do not fit the model.
    """
    return _open(run, read, SAMPLES_TO_MEASURE)


def _open(run: Run, read: Read, count: int) -> Sampled:
    options, preprocess = run.options, run.request.parsed_preprocess
    specs = with_shapes(read.inputs, options.input_shapes)
    source = open_source(
        run.request.data, specs, preprocess=preprocess, count=count, seed=options.seed, on_warning=run.warn
    )
    return Sampled(split(source, specs, options.seed), preprocess)
