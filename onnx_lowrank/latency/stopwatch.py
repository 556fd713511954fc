"""The times of one run's setting: read from the table where they are there, else measured and added to it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx_lowrank.errors import DataError, EnvironmentFault, UsageError
from onnx_lowrank.graph.layer_model import ConvGeometry
from onnx_lowrank.latency.layer_times import LayerTimes, measure_layer
from onnx_lowrank.latency.rank_step import measure_step
from onnx_lowrank.latency.table import ORIGINAL, Choice, Setting, Table
from onnx_lowrank.runtime.session import Opener


class Stopwatch:
    """Times of layers in one setting.

    Parameters
    ----------
    table
        Where times are looked up, and where new ones go.
    setting
        Of this machine and run, or of the device that is planned for.
    open_session
        Opens models as they are deployed; None where the device is another one, so that nothing can be measured.
    path
        Where the table is kept; None: nowhere.
    """

    def __init__(self, table: Table, setting: Setting, open_session: Opener | None, path: Path | None) -> None:
        self.table, self.setting, self.path = table, setting, path
        self.times = table.at(setting)
        self._open = open_session
        self.measured = 0

    @property
    def can_measure(self) -> bool:
        """Whether the device is this machine."""
        return self._open is not None

    def layer(self, geometry: ConvGeometry, wanted: Sequence[Choice]) -> dict[Choice, float]:
        """All known milliseconds of a convolution, after measuring what is wanted and not known.

        Raises
        ------
        UsageError
            Where the table of another device does not have the convolution.
        """
        known = self.times.layers.setdefault(geometry, {})
        missing = [choice for choice in wanted if choice not in known]
        if ORIGINAL in known and (not missing or self._open is None):
            return known
        if self._open is None:
            raise UsageError(
                f"the latency table has no convolution {geometry} of {self.setting}: measure this model there, "
                "with --measure-latency"
            )
        measured = measure_layer(geometry, missing, self._open)
        self.times.layers[geometry] = known = joined(known, measured)
        self.measured += len(missing) + 1
        return known

    def step(self, geometries: Sequence[ConvGeometry]) -> int:
        """The rank multiple that pays for layers of the first one's type of weights.

        Raises
        ------
        UsageError
            Where the table of another device does not say.
        """
        dtype = geometries[0].dtype
        if dtype not in self.times.steps:
            if self._open is None:
                raise UsageError(
                    f"the latency table has no rank step of {self.setting} for {dtype}: measure this model there, "
                    "with --measure-latency"
                )
            self.times.steps[dtype] = measure_step(
                [g for g in geometries if g.dtype == dtype], self._open, self.setting.provider
            )
            self.measured += 1
        return self.times.steps[dtype]

    def save(self) -> None:
        """Write the table whole or not at all, where it has a file and something is new.

        Raises
        ------
        EnvironmentFault
            Where the file cannot be written.
        """
        if self.path is None or not self.measured:
            return
        scratch = self.path.with_name(f".{self.path.name[:100]}.{os.getpid()}.tmp")
        try:
            scratch.write_text(self.table.to_json(), encoding="utf-8")
            scratch.replace(self.path)
        except OSError as error:
            raise EnvironmentFault(f"cannot write the latency table {self.path}: {error.strerror}") from error
        finally:
            scratch.unlink(missing_ok=True)


def joined(known: Mapping[Choice, float], measured: LayerTimes) -> dict[Choice, float]:
    """Milliseconds measured at different times, all as on the less disturbed machine.

    The layer as it is was measured both times and says by how much the machine was slower. Where it is too short to say
    that, what is known stays as it is, and the others join it as they are.
    """
    if ORIGINAL not in known:
        return dict(measured.times)
    if not measured.mostly_layer:
        return measured.times | dict(known)
    alone = min(known[ORIGINAL], measured.times[ORIGINAL])

    def undisturbed(times: Mapping[Choice, float]) -> dict[Choice, float]:
        return {choice: time * (alone / times[ORIGINAL]) for choice, time in times.items()}

    return undisturbed(known) | undisturbed(measured.times)


def read_table(path: Path | None) -> Table:
    """A saved table; an empty one where there is none yet.

    Raises
    ------
    DataError
        Where the file cannot be read or is no table.
    """
    if path is None or not path.exists():
        return Table()
    try:
        return Table.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
    except OSError as error:
        raise DataError(f"cannot read the latency table {path}: {error.strerror}") from error


def open_stopwatch(path: Path | None, device: str | None, here: Setting, open_session: Opener) -> Stopwatch:
    """The times of this machine, or of ``device`` in the table.

    Raises
    ------
    DataError
        Where the table cannot be read.
    UsageError
        Where the table is another device's and that was not asked for, or where it lacks the device asked for.
    """
    table = read_table(path)
    if device is None or device == here.device:
        if path is not None:
            table.check_device(here, path)
        return Stopwatch(table, here, open_session, path)
    return Stopwatch(table, table.of_device(device, here), None, path)
