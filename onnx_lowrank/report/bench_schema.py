"""What the stopwatch showed, as data: the JSON of ``onnx-lowrank-bench`` is exactly these classes, field by field."""

import json
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class BenchModel:
    """A model file, and the number of its nodes that every execution provider runs (None: all on the CPU)."""

    path: str
    sha256: str
    bytes: int
    nodes: dict[str, int] | None


@dataclass(frozen=True)
class ModelTime:
    """One model in one setting, in milliseconds of one run.

    ``ratio`` says how many times as fast as the first model it is: the median over the rounds. The true one lies
    between ``ratio_low`` and ``ratio_high`` with a probability of ``confidence``.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float


@dataclass(frozen=True)
class NodeShare:
    """A node, or all nodes of an operator: milliseconds of one run, and the share of the whole run."""

    name: str | None
    op: str
    nodes: int
    provider: str | None
    median_ms: float
    share: float


@dataclass(frozen=True)
class ModelProfile:
    """Where the time of one model goes: its costliest nodes, and all its operators."""

    median_ms: float
    nodes: tuple[NodeShare, ...]
    operators: tuple[NodeShare, ...]


@dataclass(frozen=True)
class Measurement:
    """All models with one number of threads (0: the runtime's choice) and one batch; ``profiles`` where asked for."""

    threads: int
    batch: int
    warmup_rounds: int
    settled: bool
    rounds: int
    models: tuple[ModelTime, ...]
    profiles: tuple[ModelProfile, ...]


@dataclass(frozen=True)
class BenchReport:
    """Everything that was measured."""

    schema: int
    tool: dict[str, str]
    runtime: str
    device: str
    provider: str
    options: dict[str, Any]
    data: str
    models: tuple[BenchModel, ...]
    measurements: tuple[Measurement, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """The report as JSON text, keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"
