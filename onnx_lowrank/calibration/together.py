"""Whether several samples may share a run: the outputs of a run have to be those of its samples alone.

A model may leave the number of samples open and yet have the 1 of its export inside, in a Reshape for example. Then a
run of two fails, or mixes them without a word. Others mix them by intention, such as a normalisation by the statistics
of the batch. Two samples that run together and alone tell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.data.source import Source, groups
from onnx_lowrank.errors import ModelError
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.interface import Feeds
from onnx_lowrank.runtime.session import Opener, Session

Array = NDArray[Any]

DIFFERENCE = 1e-2
"""The outputs of two samples together may differ from those alone by this share of the difference of the samples."""

ROUND_OFF = 1e-4
"""They may also differ by this share of their size, since other kernels run on larger batches."""

ROUND_OFF_OF_HALVES = 1e-2
"""The same share for outputs of less than single precision."""

LOOKED_AT = 16
"""The number of samples among which two different ones are sought."""


@dataclass(frozen=True)
class Together:
    """The outcome.

    Attributes
    ----------
    runs
        Whether several samples may share a run.
    axes
        The dimension that counts the samples, by output; None for an output that has none. Nothing is known of an
        output that is missing.
    """

    runs: bool
    axes: Mapping[str, int | None]


def run_together(network: Network, source: Source, open_session: Opener, layers: Sequence[str]) -> Together:
    """Run two samples together and alone.

    A model that does not run at all counts as one that takes several samples: the next stage says what is wrong.

    Parameters
    ----------
    network
        The network.
    source
        The samples.
    open_session
        Opens the network.
    layers
        The tensors that layers to be factorised read; their first dimension has to count the samples.
    """
    pair = _different_pair(source)
    if pair is None:
        return Together(True, {})
    outputs = [output.name for output in network.outputs]
    fed = {tensor.name for tensor in network.inputs}
    inner = [name for name in dict.fromkeys(layers) if name not in (*fed, *outputs)]

    def run(session: Session, *samples: int) -> tuple[Feeds, list[int]]:
        """Return the outputs, and the first sizes of the inner tensors, which are too large to keep."""
        values = session(source.feeds(samples))
        return {name: values[name] for name in outputs}, [len(values[name]) for name in inner]

    try:
        session = open_session(whole(network, [*outputs, *inner]), "the model")
        (first, rows), (second, _) = (run(session, sample) for sample in pair)
    except (ModelError, ValueError):  # ValueError: an output that no node makes
        return Together(True, {})
    try:
        both, rows_of_both = run(session, *pair)
    except ModelError:
        return Together(False, {})
    if any(one == 1 and two != 2 for one, two in zip(rows, rows_of_both, strict=True)):
        return Together(False, {})
    tensors = [name for name in outputs if isinstance(both[name], np.ndarray)]
    found = {name: _axis(first[name], second[name], both[name]) for name in tensors}
    axes = {name: axis for name, (fits, axis) in found.items() if fits}
    return Together(len(axes) == len(found), axes)


def _different_pair(source: Source) -> tuple[int, int] | None:
    """Return two samples that may share a run, different ones if possible; None where no two may."""
    numbers = groups(source)
    sizes = np.bincount(numbers)
    if not len(sizes) or sizes.max() < 2:
        return None
    alike = np.flatnonzero(numbers == sizes.argmax())[:LOOKED_AT].tolist()
    first = source.feeds(alike[:1])
    other = next((sample for sample in alike[1:] if _differ(first, source.feeds([sample]))), alike[1])
    return alike[0], other


def _differ(one: Feeds, other: Feeds) -> bool:
    return any(not np.array_equal(one[name], other[name]) for name in one)


def _axis(first: Array, second: Array, both: Array) -> tuple[bool, int | None]:
    """Return whether an output of two samples consists of those of each, and the dimension along which it does.

    Along the first one a sample may have any size, such as the number of boxes in it. Another one counts samples only
    if a sample has the size 1 there; otherwise a Reshape has run on past the end of a sample.
    """
    if first.ndim != both.ndim or second.ndim != both.ndim:
        return False, None
    for axis in range(both.ndim):
        others = [tuple(side for a, side in enumerate(value.shape) if a != axis) for value in (first, second, both)]
        sizes = first.shape[axis], second.shape[axis]
        if len(set(others)) > 1 or sum(sizes) != both.shape[axis] or (axis and sizes != (1, 1)):
            continue
        if _agree(both, np.concatenate([first, second], axis), _scale(first, second)):
            return True, axis
    same = first.shape == second.shape == both.shape
    return same and _agree(both, first, 0.0) and _agree(both, second, 0.0), None


def _scale(first: Array, second: Array) -> float:
    """Return Σ(first − second)² of two outputs, 0 where they have several shapes or no numbers."""
    if first.shape != second.shape or first.dtype.kind not in "fV":
        return 0.0
    finite = np.isfinite(first) & np.isfinite(second)
    return float(np.square(first[finite].astype(np.float64) - second[finite].astype(np.float64)).sum())


def _agree(value: Array, reference: Array, scale: float) -> bool:
    """Whether an output is that of the samples alone, up to round-off."""
    if value.dtype.kind in "OSU" or not value.size:
        return True
    if value.dtype.kind not in "fV":
        return float(np.mean(value != reference)) <= DIFFERENCE
    finite = np.isfinite(reference)
    if not np.array_equal(finite, np.isfinite(value)):
        return False
    squared = float(np.square(value[finite].astype(np.float64) - reference[finite].astype(np.float64)).sum())
    size = float(np.square(reference[finite].astype(np.float64)).sum())
    round_off = ROUND_OFF if value.dtype.itemsize >= np.dtype(np.float32).itemsize else ROUND_OFF_OF_HALVES
    return squared <= max(DIFFERENCE**2 * scale, round_off**2 * size)
