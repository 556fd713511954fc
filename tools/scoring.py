"""Models run with ONNX Runtime on samples with and without labels: scores, errors and times."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.labels import load_labelled
from onnx_lowrank.data.open import open_source
from onnx_lowrank.data.photos.preprocess import Preprocess
from onnx_lowrank.graph.edit.normalise import normalise
from onnx_lowrank.graph.files.load import inputs, load
from onnx_lowrank.graph.find.sample_axes import with_axes
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.runtime.session import Session

BATCH = 8
PROVIDERS = ("CPUExecutionProvider",)

Array = NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """The scores of a model on labelled samples.

    Attributes
    ----------
    samples
        The number of samples.
    top1
        The share of samples whose class the model names.
    agreement
        The share of samples on which the model and the original name the same class.
    relative_error
        Σ(out − ref)² / Σ ref² of the first output, where ref is that of the original.
    tapped_error
        The relative error of a tensor inside the network; None where none is tapped.
    """

    samples: int
    top1: float
    agreement: float
    relative_error: float
    tapped_error: float | None = None


def warn(text: str) -> None:
    """Print a warning to standard error."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def bare_run(model: Path, data: Path, images: int, preprocess: Preprocess) -> tuple[int, float]:
    """Run the model on the calibration samples, with ONNX Runtime's defaults and in batches of 8.

    Returns
    -------
    samples
        The number of samples.
    seconds
        The time inside the runtime alone. Opening the model, a first run to warm up and reading photos do not count.
    """
    proto = load(model).proto
    specs = with_axes(proto, inputs(proto))
    source = open_source(data, specs, preprocess=preprocess, count=images, seed=0, on_warning=warn)
    session = Session(str(model), PROVIDERS, 0, str(model))
    session(source.feeds(range(min(BATCH, len(source)))))
    seconds = 0.0
    for start in range(0, len(source), BATCH):
        feeds = source.feeds(range(start, min(start + BATCH, len(source))))
        began = time.perf_counter()
        session(feeds)
        seconds += time.perf_counter() - began
    return len(source), seconds


def in_turn_from_every_class(labels: NDArray[np.int64], limit: int) -> list[int]:
    """Return the first sample of every class, then the second of every class and so on, ``limit`` at the most."""
    turn = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        turn[members] = np.arange(len(members))
    chosen: list[int] = np.lexsort((labels, turn))[:limit].tolist()
    return chosen


def score_models(
    models: Sequence[Path], labelled: Path, limit: int, preprocess: Preprocess, tap: str | None = None
) -> list[Scores]:
    """Score all models on the same labelled samples.

    Parameters
    ----------
    models
        The files, the original first.
    labelled
        The samples, as the option --test of the command takes them.
    limit
        The number of samples, at the most.
    preprocess
        The preprocessing of photos.
    tap
        The name of a tensor that all models have, whose relative error is also measured.
    """
    source, labels = load_labelled(labelled, inputs(load(models[0]).proto), preprocess, on_warning=warn)
    chosen = in_turn_from_every_class(labels, limit)
    sessions = [_tapped(model, tap) for model in models]
    parts: list[list[Array]] = [[] for _ in models]
    tapped_parts: list[list[Array]] = [[] for _ in models]
    for start in range(0, len(chosen), BATCH):
        feeds = source.feeds(chosen[start : start + BATCH])
        for i, session in enumerate(sessions):
            outputs = session(feeds)
            parts[i].append(outputs[session.outputs[0]].astype(np.float64))
            if tap is not None:
                tapped_parts[i].append(outputs[tap].astype(np.float64))
    outs = [np.concatenate(own) for own in parts]
    tapped = [np.concatenate(own) if own else None for own in tapped_parts]
    return [
        _scores(out, outs[0], _error_where_tapped(tensor, tapped[0]), labels[chosen])
        for out, tensor in zip(outs, tapped, strict=True)
    ]


def _tapped(model: Path, tap: str | None) -> Session:
    if tap is None:
        return Session(str(model), PROVIDERS, 0, str(model))
    network = normalise(load(model).proto)
    with_tap = whole(network, [network.outputs[0].name, tap])
    return Session(with_tap.SerializeToString(), PROVIDERS, 0, str(model))


def _scores(out: Array, ref: Array, tapped_error: float | None, labels: NDArray[np.int64]) -> Scores:
    predicted = out.argmax(axis=1)
    return Scores(
        samples=len(labels),
        top1=float((predicted == labels).mean()),
        agreement=float((predicted == ref.argmax(axis=1)).mean()),
        relative_error=relative_error(out, ref),
        tapped_error=tapped_error,
    )


def _error_where_tapped(tensor: Array | None, ref: Array | None) -> float | None:
    return None if tensor is None or ref is None else relative_error(tensor, ref)


def relative_error(out: Array, ref: Array) -> float:
    """Return Σ(out − ref)² / Σ ref²."""
    return float(np.square(out - ref).sum() / np.square(ref).sum())
