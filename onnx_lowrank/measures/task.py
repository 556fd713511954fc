"""The interface of every task: what some outputs are for, and how well another network does the same."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.measures.batch import Batch


class Task(Protocol):
    """A task that some outputs of a network serve; a file for each.

    What an answer is, such as boxes or a map of classes, is the task's own affair.
    """

    @property
    def name(self) -> str:
        """The name in options and in the report."""

    @property
    def kind(self) -> str | None:
        """How the outputs are read, in one or two words; None where there is only one way."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs."""

    def answers(self, batch: Batch) -> list[Any] | None:
        """Return the answer to every sample of a batch.

        None stands for outputs that no longer look as they did when the task was recognised.
        """

    def truth(self, answer: Any) -> Any:
        """Return what of the original's answer another network has to give."""

    def score(self, truth: Any, answer: Any) -> Any:
        """Compare an answer with the truth; the scores of all samples give the ``values``.

        None stands for answers that cannot be compared, such as pictures of several sizes.
        """

    def values(self, scores: Sequence[Any], weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the measures of some samples, counted with weights.

        Parameters
        ----------
        scores
            What ``score`` returned for n samples.
        weights
            How often every sample counts, shape [draws, n].

        Returns
        -------
        dict
            Values by the name of the measure, shape [draws]; NaN where a draw has none.
        """

    def details(self, scores: Sequence[Any]) -> dict[str, float]:
        """Return what is worth knowing of the samples beside the measures, such as the number of true boxes."""
