"""The latency table: measured milliseconds, kept in a JSON file together with all that they depend on.

One file may hold the times of several devices, numbers of threads and batch sizes. Each combination is a *setting*.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from onnx_lowrank.errors import DataError, UsageError
from onnx_lowrank.graph.layer_model import ConvGeometry

SCHEMA = 1

Choice = tuple[str | None, tuple[int, ...]]
"""The name of a form and its ranks, from the input on."""

ORIGINAL: Choice = (None, ())
"""The choice to leave the convolution untouched."""


@dataclass(frozen=True)
class Setting:
    """The device on which something was measured, and how it ran there.

    Attributes
    ----------
    device
        The name of the processor that runs the layers.
    provider
        The full name of ONNX Runtime's execution provider.
    onnxruntime
        The version of ONNX Runtime.
    threads
        The number of ONNX Runtime's threads; 0 where it chose the number itself.
    batch
        The number of samples in a run.
    precision
        "float", or "int8" where models were rounded before they were measured.
    """

    device: str
    provider: str
    onnxruntime: str
    threads: int
    batch: int
    precision: str = "float"

    def __str__(self) -> str:
        """Return text such as ``EPYC (2 cores), CPUExecutionProvider of ONNX Runtime 1.31.1, 2 threads, batch 1``."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}" if self.threads else "its own number of threads"
        rounded = "" if self.precision == "float" else f", {self.precision}"
        where = f"{self.device}, {self.provider} of ONNX Runtime {self.onnxruntime}"
        return f"{where}, {threads}, batch {self.batch}{rounded}"


@dataclass
class SettingTimes:
    """Everything that was measured in one setting.

    Attributes
    ----------
    steps
        The rank multiple that pays, by the type of the weights.
    models
        Milliseconds of whole models, by ``deployment.model_key``.
    layers
        Milliseconds of convolutions, by choice.
    """

    steps: dict[str, int] = field(default_factory=dict)
    models: dict[str, float] = field(default_factory=dict)
    layers: dict[ConvGeometry, dict[Choice, float]] = field(default_factory=dict)


class Table:
    """Times by setting; a new table is empty."""

    def __init__(self) -> None:
        self._times: dict[Setting, SettingTimes] = {}

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The settings in which something was measured."""
        return tuple(self._times)

    def at(self, setting: Setting) -> SettingTimes:
        """Return the times of a setting, to read and to add to; they are empty if the setting is new."""
        return self._times.setdefault(setting, SettingTimes())

    def of_device(self, device: str, here: Setting) -> Setting:
        """Return the one setting of a device whose provider, threads and batch are those of ``here``.

        Raises
        ------
        UsageError
            If there is none, or one for each of several versions of ONNX Runtime.
        """
        matching = [
            s
            for s in self._times
            if s.device == device and replace(s, device=here.device, onnxruntime=here.onnxruntime) == here
        ]
        if len(matching) == 1:
            return matching[0]
        if matching:
            versions = ", ".join(s.onnxruntime for s in matching)
            raise UsageError(f"the latency table has {device!r} with ONNX Runtime {versions}: keep one of them")
        known = "; ".join(map(str, self._times)) or "nothing"
        raise UsageError(
            f"the latency table has no times of {device!r} with {here.provider}, --threads {here.threads} and "
            f"--latency-batch {here.batch}; it has: {known}"
        )

    def check_device(self, here: Setting, path: Path) -> None:
        """Refuse a table that was measured on other devices only: its times do not hold here.

        Parameters
        ----------
        here
            The setting of this machine.
        path
            The file of the table, for the message.

        Raises
        ------
        UsageError
            If the table holds other devices and not this one; the message names one to plan for.
        """
        others = {s.device for s in self._times}
        if others and here.device not in others:
            raise UsageError(
                f"{path} was measured on {' and '.join(sorted(others))}, and this is {here.device}: plan for that "
                f"device with --latency-device {sorted(others)[0]!r}, or name another file to measure here"
            )

    def to_json(self) -> str:
        """Return the table as text that ``from_json`` reads."""
        document = {"schema": SCHEMA, "settings": [_setting_json(s, t) for s, t in self._times.items()]}
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> "Table":
        """Read a saved table.

        Parameters
        ----------
        text
            What ``to_json`` returned.
        source
            The name of the table in error messages.

        Raises
        ------
        DataError
            If the text is no table.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise DataError(f"{source} is not JSON ({error}): it is no latency table") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise DataError(f"{source} is no latency table of schema {SCHEMA}: name another file")
        table = cls()
        try:
            for entry in document["settings"]:
                # Tables that were written before there were integers do not know the precision.
                stated = (f for f in fields(Setting) if f.name in entry or f.default is MISSING)
                setting = Setting(**{f.name: _typed(entry[f.name], f.type) for f in stated})
                times = table.at(setting)
                times.steps.update({str(k): _typed(v, int) for k, v in entry["steps"].items()})
                times.models.update({str(k): _positive(v) for k, v in entry["models"].items()})
                for layer in entry["layers"]:
                    times.layers[_geometry(layer)] = {_choice(p): _positive(p["ms"]) for p in layer["times"]}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{source} is a damaged latency table ({type(error).__name__}: {error}): measure it again"
            ) from None
        return table


def _setting_json(setting: Setting, times: SettingTimes) -> dict[str, Any]:
    layers = [
        asdict(geometry)
        | {"times": [{"form": form, "ranks": list(ranks), "ms": ms} for (form, ranks), ms in milliseconds.items()]}
        for geometry, milliseconds in times.layers.items()
    ]
    return asdict(setting) | {"steps": times.steps, "models": times.models, "layers": layers}


def _geometry(entry: Mapping[str, Any]) -> ConvGeometry:
    # Tables that were written before transposed convolutions were measured do not know their field.
    values = {f.name: entry[f.name] for f in fields(ConvGeometry) if f.name in entry or f.default is MISSING}
    lists = {k: tuple(_typed(n, int) for n in v) for k, v in values.items() if isinstance(v, list)}
    return ConvGeometry(**(values | lists))


def _choice(entry: Mapping[str, Any]) -> Choice:
    form, ranks = entry["form"], tuple(_typed(n, int) for n in entry["ranks"])
    if form is not None and not isinstance(form, str):
        raise TypeError(f"form {form!r}")
    return form, ranks


def _typed(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} where a {kind.__name__} belongs")
    return value


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{value!r} milliseconds")
    return float(value)
