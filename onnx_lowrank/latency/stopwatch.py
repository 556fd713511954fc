"""The times of one setting: looked up in the latency table, or measured here and added to it.

The device of the setting is this machine, or another one whose times the table holds; nothing can be measured on that.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.files import write_text
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.interface import Feeds
from onnx_lowrank.latency.layer_times import LayerTimes, MeasureLayer, MeasureModels, measure_layer, measure_models
from onnx_lowrank.latency.rank_step import measure_step
from onnx_lowrank.latency.table import ORIGINAL, Choice, Setting, Table
from onnx_lowrank.runtime.session import Opener


class Stopwatch:
    """The times of layers and models in one setting.

    Parameters
    ----------
    table
        The table in which known times are looked up and to which new ones are added.
    setting
        The device, provider, threads and batch whose times are wanted.
    open_session
        Opens models as they are deployed; None where the device is not this machine.
    path
        The file that keeps the table; None where none does.
    measure_layer, measure_models
        Take the times of layers and of whole models.

    Attributes
    ----------
    times
        All times of the setting that are known by now.
    measurements
        The number of times that were measured because the table did not hold them.
    """

    def __init__(
        self,
        table: Table,
        setting: Setting,
        open_session: Opener | None,
        path: Path | None = None,
        *,
        measure_layer: MeasureLayer = measure_layer,
        measure_models: MeasureModels = measure_models,
    ) -> None:
        self.table, self.setting, self.path = table, setting, path
        self.open_session = open_session
        self.measure_layer, self.measure_models = measure_layer, measure_models
        self.times = table.at(setting)
        self.measurements = 0

    @property
    def can_measure(self) -> bool:
        """Whether the device is this machine."""
        return self.open_session is not None

    def layer(self, geometry: ConvGeometry, wanted: Sequence[Choice] = ()) -> dict[Choice, float]:
        """Return all known milliseconds of a convolution by choice; measure those wanted that are not known.

        Choices that cannot be measured, because the device is another one, are left out.

        Raises
        ------
        UsageError
            If the table of another device does not hold the convolution.
        """
        known = self.times.layers.setdefault(geometry, {})
        # The untouched layer is measured in any case, to compare the times of now with the known ones.
        missing = [choice for choice in wanted if choice not in known and choice != ORIGINAL]
        if ORIGINAL in known and not (missing and self.can_measure):
            return known
        open_session = self._opener(f"convolution {geometry}")
        known = joined(known, self.measure_layer(geometry, missing, open_session))
        self.times.layers[geometry] = known
        self.measurements += len(missing) + 1
        return known

    def model(self, key: str, proto: onnx.ModelProto, feeds: Feeds) -> float:
        """Return the milliseconds of a whole model; measure them where the table does not hold the key.

        Raises
        ------
        UsageError
            If the table of another device does not hold the model.
        """
        if key not in self.times.models:
            session = self._opener("time of this model, for such inputs,")(proto, "the model")
            (self.times.models[key],) = self.measure_models([session], feeds).milliseconds
            self.measurements += 1
        return self.times.models[key]

    def step(self, geometries: Sequence[ConvGeometry]) -> int:
        """Return the rank multiple that pays for layers whose weights have the type of the first one's.

        Raises
        ------
        UsageError
            If the table of another device does not hold it.
        """
        dtype = geometries[0].dtype
        if dtype not in self.times.steps:
            open_session = self._opener(f"rank step for {dtype}")
            alike = [geometry for geometry in geometries if geometry.dtype == dtype]
            self.times.steps[dtype] = measure_step(alike, open_session, self.setting.provider)
            self.measurements += 1
        return self.times.steps[dtype]

    def save(self) -> None:
        """Write the table to its file, whole or not at all, if it has one and something new was measured.

        Raises
        ------
        EnvironmentFault
            If the file cannot be written.
        """
        if self.path is not None and self.measurements:
            write_text(self.path, self.table.to_json())

    def _opener(self, missing: str) -> Opener:
        if self.open_session is None:
            raise UsageError(
                f"the latency table has no {missing} of {self.setting}: measure this model there, with "
                "--measure-latency"
            )
        return self.open_session


def joined(known: Mapping[Choice, float], measured: LayerTimes) -> dict[Choice, float]:
    """Join a layer's known milliseconds with newly measured ones, all as if the machine had been disturbed least.

    The untouched layer was measured both times, so its two times say by how much the machine was slower once. Where it
    is too short to say that, the known times stay as they are and the new ones join them unchanged.
    """
    if ORIGINAL not in known:
        return dict(measured.times)
    if not measured.mostly_layer:
        return measured.times | dict(known)
    least = min(known[ORIGINAL], measured.times[ORIGINAL])

    def undisturbed(times: Mapping[Choice, float]) -> dict[Choice, float]:
        return {choice: time * (least / times[ORIGINAL]) for choice, time in times.items()}

    return undisturbed(known) | undisturbed(measured.times)


def read_table(path: Path | None) -> Table:
    """Read a saved table; return an empty one if there is no file yet.

    Raises
    ------
    DataError
        If the file cannot be read or holds no table.
    """
    if path is None or not path.exists():
        return Table()
    try:
        return Table.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except OSError as error:
        raise DataError(f"cannot read the latency table {path}: {error.strerror}") from error


def open_stopwatch(
    path: Path | None,
    device: str | None,
    here: Setting,
    open_session: Opener,
    measure_layer: MeasureLayer = measure_layer,
) -> Stopwatch:
    """Open the stopwatch of this machine, or of another device in the table.

    Parameters
    ----------
    path
        The file of the table; None where there is none.
    device
        The name of the device whose times are wanted; None for this machine.
    here
        The setting of this machine.
    open_session
        Opens models on this machine as they are deployed.
    measure_layer
        Takes the times of layers.

    Raises
    ------
    DataError
        If the table cannot be read.
    UsageError
        If the table holds only other devices and none was asked for, or if it does not hold the one asked for.
    """
    table = read_table(path)
    if device is None or device == here.device:
        if path is not None:
            table.check_device(here, path)
        return Stopwatch(table, here, open_session, path, measure_layer=measure_layer)
    return Stopwatch(table, table.of_device(device, here), None, path)
