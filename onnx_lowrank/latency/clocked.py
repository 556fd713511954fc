"""What the stopwatch knows of a model before anything is planned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx_lowrank.calibration.macs import Macs
from onnx_lowrank.calibration.sampling import Sampling
from onnx_lowrank.errors import UsageError
from onnx_lowrank.factorise.forms.conv_shape import ConvShape
from onnx_lowrank.factorise.forms.table import FormTable
from onnx_lowrank.graph.files.load import LoadedModel
from onnx_lowrank.graph.find.sites import ConvSite
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.layer_times import measure_models
from onnx_lowrank.latency.rank_grid import ranks_to_measure
from onnx_lowrank.latency.stopwatch import Stopwatch, open_stopwatch
from onnx_lowrank.latency.table import ORIGINAL, Setting
from onnx_lowrank.latency.time_costs import LatencyCosts
from onnx_lowrank.options import AUTO, Options
from onnx_lowrank.progress import Progress
from onnx_lowrank.runtime.providers import device_name, provider_names, runtime_version
from onnx_lowrank.runtime.session import Opener, opener


@dataclass(frozen=True)
class Clocked:
    """What was measured of a model before anything is planned.

    Attributes
    ----------
    stopwatch
        The layers' times.
    geometries
        By site name.
    multiple
        The rank multiple.
    original_ms
        The whole model's time.
    batch
        Indices of the samples in a measured run.
    """

    stopwatch: Stopwatch
    geometries: Mapping[str, ConvGeometry]
    multiple: int
    original_ms: float
    batch: tuple[int, ...]

    def costs(self, site: str) -> LatencyCosts:
        """The times of one site's choices, as known by now."""
        return LatencyCosts(self.stopwatch.layer(self.geometries[site], ()))


def timed_batch(sampling: Sampling, options: Options) -> tuple[int, ...]:
    """Indices of the samples in a measured run; few samples are repeated.

    Raises
    ------
    UsageError
        Where the model demands another number.
    """
    single = sampling.single
    if options.latency_batch is None or options.latency_batch == len(single):
        return single
    if sampling.fixed:
        raise UsageError(f"the model takes batches of {len(single)}: drop --latency-batch {options.latency_batch}")
    return tuple(i % sampling.samples for i in range(options.latency_batch))


def open_for(sampling: Sampling, options: Options) -> tuple[Stopwatch, tuple[int, ...], Opener]:
    """The stopwatch of a run, the samples in a measured run, and how the models are opened: as deployed."""
    batch = timed_batch(sampling, options)
    open_session = opener(options.providers, options.threads, spinning=True)
    provider = provider_names(options.providers)[0]
    here = Setting(device_name(provider), provider, runtime_version(), options.threads, len(batch))
    path = Path(options.latency_table) if options.latency_table else None
    return open_stopwatch(path, options.latency_device, here, open_session), batch, open_session


def rank_multiple(
    sites: Sequence[ConvSite], macs: Macs, sampling: Sampling, options: Options, progress: Progress
) -> int:
    """The rank multiple, measured where it is to be found."""
    if options.resolved_rank_multiple != AUTO:
        return int(options.resolved_rank_multiple)
    progress("measure", 0, 1)
    stopwatch, batch, _ = open_for(sampling, options)
    convolutions = [site for site in sites if site.kernel.ndim > 2]
    geometries = [ConvGeometry.of(s, macs.shapes[s.input], len(batch)) for s in convolutions]
    multiple = stopwatch.step(geometries) if geometries else 1
    stopwatch.save()
    if options.target == "macs":
        progress("measure", 1, 1)
    return multiple


def clock_layers(
    loaded: LoadedModel,
    sites: Sequence[ConvSite],
    shapes: Mapping[str, ConvShape],
    macs: Macs,
    sampling: Sampling,
    options: Options,
    kinds: FormTable,
    multiple: int,
    progress: Progress,
) -> Clocked:
    """Measure the layers in some forms at multiples of a rank, as far as the table lacks them, and the whole model.

    Raises
    ------
    UsageError
        Where the table of another device lacks something.
    EnvironmentFault
        Where the table cannot be written.
    """
    stopwatch, batch, open_session = open_for(sampling, options)
    geometries = {s.name: ConvGeometry.of(s, macs.shapes[s.input], len(batch)) for s in sites}
    distinct = {geometry: shapes[name] for name, geometry in geometries.items()}
    total = len(distinct) + 2
    progress("measure", 1, total)
    feeds = sampling.source.feeds(batch)
    key = model_key(loaded, feeds)
    if key not in stopwatch.times.models:
        if not stopwatch.can_measure:
            raise UsageError(
                f"the latency table has no time of this model, for such inputs, of {stopwatch.setting}: measure it "
                "there, with --measure-latency"
            )
        session = open_session(loaded.proto, "the model")
        (stopwatch.times.models[key],), _ = measure_models([session], feeds)
        stopwatch.measured += 1
    for done, (geometry, shape) in enumerate(distinct.items(), 2):
        progress("measure", done, total)
        stopwatch.layer(geometry, [ORIGINAL, *ranks_to_measure(shape, kinds, multiple)])
    stopwatch.save()
    progress("measure", total, total)
    return Clocked(stopwatch, geometries, multiple, stopwatch.times.models[key], batch)


def model_key(loaded: LoadedModel, feeds: Feeds) -> str:
    """What a whole model's time is kept under: the file and the shapes of its inputs."""
    shapes = ",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items())
    return f"{loaded.sha256} {shapes}"
