"""A model as it will be deployed: all that its time depends on, for the stopwatch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FORMS, FormTable
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.find.families import Family
from onnx_lowrank.graph.find.site import ConvSite
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.quantise.target import integer_target
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.in_integers import in_integers
from onnx_lowrank.latency.layer_times import measure_layer
from onnx_lowrank.latency.stopwatch import Stopwatch, open_stopwatch
from onnx_lowrank.latency.table import Setting
from onnx_lowrank.options import Options
from onnx_lowrank.runtime.providers import device_name, provider_names, runtime_version
from onnx_lowrank.runtime.session import opener


@dataclass(frozen=True)
class Deployment:
    """A model that goes on the stopwatch, with the batch, the provider and the threads that it will run with.

    Attributes
    ----------
    loaded
        The original model.
    network
        The original normalised, which no trial edits.
    sites
        The convolutions that may be factorised.
    families
        The same by their weights.
    shapes
        The geometry that decides the cost of each site, by site name.
    macs
        The counted costs, which hold the shapes of the tensors that the sites read.
    sampling
        The samples.
    options
        The user's choices.
    forms
        The table of forms.
    """

    loaded: LoadedModel
    network: Network
    sites: tuple[ConvSite, ...]
    families: tuple[Family, ...]
    shapes: Mapping[str, ConvShape]
    macs: Macs
    sampling: Sampling
    options: Options
    forms: FormTable = FORMS

    @cached_property
    def batch(self) -> tuple[int, ...]:
        """Indices of the samples in a measured run."""
        return timed_batch(self.sampling, self.options)

    @property
    def feeds(self) -> Feeds:
        """The samples of a measured run."""
        return self.sampling.source.feeds(self.batch)

    @cached_property
    def geometries(self) -> dict[str, ConvGeometry]:
        """The geometry that decides the time of each site, by site name."""
        return {s.name: ConvGeometry.of(s, self.macs.shapes[s.input], len(self.batch)) for s in self.sites}

    @property
    def table_key(self) -> str:
        """The key under which the latency table keeps the whole model's time."""
        return model_key(self.loaded, self.feeds)

    def open_stopwatch(self) -> Stopwatch:
        """Open the stopwatch of this machine, or of the device that the options name.

        Raises
        ------
        DataError
            If the latency table cannot be read.
        UsageError
            If the table does not hold the device.
        """
        options = self.options
        open_session = opener(options.providers, options.threads, spinning=True)
        provider, precision = provider_names(options.providers)[0], options.quantize or "float"
        here = Setting(device_name(provider), provider, runtime_version(), options.threads, len(self.batch), precision)
        if options.quantize:
            open_session = in_integers(open_session, integer_target(options.preset), options.exclude)
        path = Path(options.latency_table) if options.latency_table else None
        measure = partial(measure_layer, forms=self.forms)
        return open_stopwatch(path, options.latency_device, here, open_session, measure)


def timed_batch(sampling: Sampling, options: Options) -> tuple[int, ...]:
    """Return the indices of the samples in a measured run; samples are repeated where there are too few.

    Raises
    ------
    UsageError
        If the model demands another number of samples than the options.
    """
    single = sampling.single
    if options.latency_batch is None or options.latency_batch == len(single):
        return single
    if sampling.fixed:
        raise UsageError(f"the model takes batches of {len(single)}: drop --latency-batch {options.latency_batch}")
    alike = sampling.alike(single[0])
    return tuple(alike[i % len(alike)] for i in range(options.latency_batch))


def model_key(loaded: LoadedModel, feeds: Feeds) -> str:
    """Return the key of a whole model's time in the latency table: the file's hash and the shapes of its inputs."""
    shapes = ",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items())
    return f"{loaded.sha256} {shapes}"
