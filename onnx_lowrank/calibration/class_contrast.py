"""How clearly a classifier decides, without labels and whatever the scale of its scores.

For the scores z of one sample, t the largest and r the others,

    contrast = (t − mean r) / std r.

Training by cross-entropy lifts one score and brings the others together ("neural collapse"), so the contrast is highest
on inputs like those of training. It does not change when all scores are multiplied or shifted, unlike confidence, which
inputs that are too large raise as well. A network that no longer sees its input may give one class all the same. That
is measured by the share of the scores' variation that differs between samples,

    dependence R = 1 − Σ_c (mean_i z_ic)² / Σ_c mean_i z_ic²     with every sample's scores centred,

and the clarity of a classifier is mean log contrast + ½ log R.

The mutual information of sample and class, H(mean p) − mean H(p), is computed as well, for the reader. It cannot decide
alone: where the samples have fewer classes than the network, a wrong preset, which scatters the predictions over other
classes, often has the highest.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnx_lowrank.calibration.jackknife import Estimate

Floats = NDArray[np.float64]

FEWEST_CLASSES = 8
"""The number of classes below which the spread of the other scores says too little."""

LEAST_CONTRAST = 1.35
"""The least contrast of a classifier that sees what it was trained on, in units of √(2 log classes), which is what the
largest of as many random numbers reaches."""

LEAST_CONFIDENCE, LEAST_DEPENDENCE = 0.3, 0.3
"""The least mean probability of the top class, and the least dependence, of such a classifier."""

LEAST_INFORMATION = 0.1
"""The least mutual information, in nats; photos of a single class give 0.3 or more."""


@dataclass(frozen=True)
class Clarity:
    """How clearly a classifier decides on some samples.

    Attributes
    ----------
    contrast
        The geometric mean of the samples' contrasts.
    dependence
        The share of the variation of scores that differs between samples, between 0 and 1.
    confidence
        The mean probability of the top class.
    information
        The mutual information of sample and class, in nats.
    classes
        The number of classes.
    estimate
        The mean log contrast + ½ log dependence.
    """

    contrast: float
    dependence: float
    confidence: float
    information: float
    classes: int
    estimate: Estimate

    @property
    def credible(self) -> bool:
        """Whether this looks like a classifier on inputs such as it was trained on."""
        random = float(np.sqrt(2 * np.log(self.classes)))
        return (
            self.contrast >= LEAST_CONTRAST * random
            and self.confidence >= LEAST_CONFIDENCE
            and self.dependence >= LEAST_DEPENDENCE
            and self.information >= LEAST_INFORMATION
        )


def clarity(scores: NDArray[np.floating]) -> Clarity:
    """Measure the clarity of a classifier.

    Parameters
    ----------
    scores
        The logits, shape [n, classes], n at least 2.
    """
    z = scores.astype(np.float64)
    z -= z.mean(axis=1, keepdims=True)
    ordered = np.sort(z, axis=1)
    top, rest = ordered[:, -1], ordered[:, :-1]
    tiny = np.finfo(np.float64).tiny
    spread = np.maximum(rest.std(axis=1), 1e-9 * np.abs(z).max(axis=1) + tiny)
    logs = np.log(np.maximum((top - rest.mean(axis=1)) / spread, tiny))
    n, total, squares = len(z), z.sum(axis=0), np.square(z).sum(axis=1)

    def dependence(sums: Floats, energy: Floats, count: int) -> Floats:
        share = 1 - np.square(sums / count).sum(axis=-1) / np.maximum(energy / count, tiny)
        bounded: Floats = np.clip(share, 1e-9, 1.0)
        return bounded

    whole = dependence(total, squares.sum(), n)
    without = dependence(total - z, squares.sum() - squares, n - 1)
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return Clarity(
        contrast=float(np.exp(logs.mean())),
        dependence=float(whole),
        confidence=float(p.max(axis=1).mean()),
        information=float(_entropy(p.mean(axis=0)) - _entropy(p).mean()),
        classes=z.shape[1],
        estimate=Estimate(
            float(logs.mean() + 0.5 * np.log(whole)), (logs.sum() - logs) / (n - 1) + 0.5 * np.log(without)
        ),
    )


def _entropy(p: Floats) -> Floats:
    entropy: Floats = -(p * np.log(np.maximum(p, np.finfo(np.float64).tiny))).sum(axis=-1)
    return entropy
