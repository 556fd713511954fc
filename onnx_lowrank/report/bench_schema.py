"""The results of a benchmark: the JSON of ``onnx-lowrank-bench`` consists of these classes, field by field."""

import json
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1
"""The version of the results, which rises when the meaning of a field changes."""


@dataclass(frozen=True)
class BenchModel:
    """A model file.

    Attributes
    ----------
    path, sha256, bytes
        The place, the hash and the size of the file.
    nodes
        The number of nodes that each execution provider runs; None if all of them run on the CPU.
    """

    path: str
    sha256: str
    bytes: int
    nodes: dict[str, int] | None


@dataclass(frozen=True)
class ModelTime:
    """The time of one run of a model in one setting.

    Attributes
    ----------
    median_ms, quartiles_ms
        The median and the quartiles over the rounds, in milliseconds.
    ratio
        The speedup over the first model: the median over the rounds of the ratio of their times.
    ratio_low, ratio_high, confidence
        The interval that contains the true speedup with this probability.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float


@dataclass(frozen=True)
class NodeShare:
    """The time of a node, or of all nodes of an operator, in one run.

    Attributes
    ----------
    name, provider
        The node and the execution provider that runs it; None for an operator.
    op
        The operator.
    nodes
        The number of nodes.
    median_ms, share
        The time in milliseconds, and its share of the whole run.
    """

    name: str | None
    op: str
    nodes: int
    provider: str | None
    median_ms: float
    share: float


@dataclass(frozen=True)
class ModelProfile:
    """The times inside one model: those of the whole run, of its costliest nodes, and of all its operators."""

    median_ms: float
    nodes: tuple[NodeShare, ...]
    operators: tuple[NodeShare, ...]


@dataclass(frozen=True)
class Measurement:
    """The times of all models in one setting.

    Attributes
    ----------
    threads
        The number of threads; 0 leaves it to the runtime.
    batch
        The number of samples in a run.
    warmup_rounds, settled
        The number of rounds before those that count, and whether the times had settled by then.
    rounds
        The number of rounds that count.
    models
        The times of the models, in the order of the files.
    profiles
        The profiles of the models, if some were asked for.
    """

    threads: int
    batch: int
    warmup_rounds: int
    settled: bool
    rounds: int
    models: tuple[ModelTime, ...]
    profiles: tuple[ModelProfile, ...]


@dataclass(frozen=True)
class BenchReport:
    """Everything that a benchmark measured.

    Attributes
    ----------
    schema, tool
        The version of the results, and the name and version of the program.
    runtime, device, provider
        The version of ONNX Runtime, the processor or graphics card, and the execution provider.
    options
        The settings of the benchmark.
    data
        A description of the samples.
    models, measurements
        The files, and their times in every setting.
    warnings
        The warnings of the benchmark.
    """

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
        """Return the results as JSON text, with the keys in the order of the fields."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"
