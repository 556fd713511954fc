"""The samples on which rehearsals are compared, and the errors of the outputs on them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from onnx_lowrank.calibration.sampling import Batches
from onnx_lowrank.graph.network import Network
from onnx_lowrank.graph.segments import whole
from onnx_lowrank.interface import Feeds
from onnx_lowrank.stages.difference import Difference
from onnx_lowrank.stages.intervals import CONFIDENCE
from onnx_lowrank.stages.prepared import Basis
from onnx_lowrank.stages.run import Run

Array = NDArray[Any]

MEMORY_SHARE = 8
"""The outputs of the original that are kept take at most this part of ``--memory``."""


ELEMENTS = 100_000
"""The number of telling elements that tell errors apart, as those of a few pictures do. A sample whose outputs alone
have so many counts as two."""

NORMAL_KURTOSIS = 3.0
"""E[c⁴] over E[c²]² of a normal distribution."""


@dataclass(frozen=True)
class Score:
    """The error of the outputs on all samples that score.

    Attributes
    ----------
    shares
        What every sample contributes to the centred error, which is averaged over the outputs; infinite where an output
        is ruined. Where an output does not list the samples of a batch on its first axis, each has a part of its
        elements.
    """

    shares: tuple[float, ...]

    @property
    def error(self) -> float:
        """The centred error of the outputs."""
        return math.fsum(self.shares)

    def clearly_below(self, other: "Score", gain: float) -> bool:
        """Tell whether the error is lower by a share ``gain`` at least, and by more than chance explains.

        Both are scores of the same samples, so it is the differences of every sample that count. Their sum is taken to
        follow Student's distribution.
        """
        if not math.isfinite(self.error) or not math.isfinite(other.error):
            return self.error < other.error
        differences = np.subtract(other.shares, self.shares)
        samples = len(differences)
        if samples < 2 or not self.error <= (1 - gain) * other.error:
            return False
        deviation = math.sqrt(samples) * float(differences.std(ddof=1))
        return float(differences.sum()) > float(stdtrit(samples - 1, (1 + CONFIDENCE) / 2)) * deviation


class Scoring:
    """The original's outputs on some batches, with which those of other networks are compared.

    Parameters
    ----------
    run
        The surroundings, of which the sessions and the memory matter.
    basis
        The results of the stages up to the profile.
    batches
        The batches. Those whose outputs do not fit in memory are left out, and those that are not needed any more.
    fewest
        The number of samples after which no more are needed if their outputs have ``ELEMENTS`` telling elements.
    """

    def __init__(self, run: Run, basis: Basis, batches: Batches, fewest: int) -> None:
        self._run, self._source, self._original = run, basis.sampled.source, basis.read.network
        self._references: list[Mapping[str, Array]] = []
        room, samples, elements = run.options.memory // MEMORY_SHARE, 0, 0
        for batch, results in zip(batches, self._results(self._original, batches), strict=False):
            kept = {name: value for name, value in results.items() if _comparable(value)}
            room -= sum(value.nbytes for value in kept.values())
            if room < 0 and self._references:
                break
            self._references.append(kept)
            size = sum(map(telling, kept.values()))
            samples, elements = samples + (2 if size >= ELEMENTS * len(batch) else 1) * len(batch), elements + size
            if samples >= fewest and elements >= ELEMENTS:
                break
        self.batches = batches[: len(self._references)]

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs that are compared."""
        return tuple(self._references[0])

    @property
    def ruined(self) -> Score:
        """The score of a network that makes nothing of use."""
        return Score((math.inf,) * sum(map(len, self.batches)))

    def of_network(self, network: Network) -> Score:
        """Return the score of a whole network."""
        return self.of_results(self._results(network, self.batches))

    def of_results(self, results: Iterable[Feeds]) -> Score:
        """Return the score of the outputs of every batch; those that are missing are the original's."""
        differences = dict.fromkeys(self.outputs, Difference())
        totals = {name: [0.0] for name in self.outputs}
        for batch, references, answers in zip(self.batches, self._references, results, strict=True):
            for name, reference in references.items():
                answer = answers.get(name, reference)
                if answer.shape != reference.shape:
                    return self.ruined
                for pair in _by_sample(reference, answer, len(batch)):
                    differences[name] = differences[name].with_batch(*pair, 1)
                    totals[name].append(differences[name].squared.total)
        if not differences or not all(difference.finite for difference in differences.values()):
            return self.ruined
        shares = [np.diff(totals[name]) / difference.centred_scale for name, difference in differences.items()]
        return Score(tuple(np.mean(shares, axis=0).tolist()))

    def _results(self, network: Network, batches: Batches) -> Iterable[Feeds]:
        outputs = [output.name for output in network.outputs]
        session = self._run.open_session(whole(network, outputs), "a rehearsal")
        return (session(self._source.feeds(batch)) for batch in batches)


def telling(values: Array) -> int:
    """Return the number of elements that tell as much as these do of the error of a network.

    Most elements of a sparse output, such as the probabilities of thousands of characters at every place of a line, are
    zero in any network. Of n values the mean square is known as well as of 3 n / kurtosis values that are normal.
    """
    if not values.size or not np.isfinite(values).all():
        return 1
    centred = np.subtract(values, values.mean(dtype=np.float64), dtype=np.float64)
    squares = np.square(centred / (np.abs(centred).max() or 1.0))
    fourth = float(np.square(squares).sum()) or 1.0
    return max(1, min(values.size, round(NORMAL_KURTOSIS * float(squares.sum()) ** 2 / fourth)))


def _by_sample(reference: Array, answer: Array, samples: int) -> Iterator[tuple[Array, Array]]:
    """Divide an output of a batch among its samples."""
    if reference.shape[:1] == (samples,):
        yield from zip(np.split(reference, samples), np.split(answer, samples), strict=True)
    else:  # the elements are dealt out, whoever made them
        yield from zip(*(np.array_split(value.ravel(), samples) for value in (reference, answer)), strict=True)


def _comparable(value: object) -> bool:
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)
