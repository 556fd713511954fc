"""The part of the report on what the network was fed, and on the presets that were compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputReport:
    """The samples of one input.

    Attributes
    ----------
    source
        "photos", "made-up images", "made-up noise" or "arrays".
    preset
        The preset that made the values; None for arrays and noise, which are never preprocessed.
    low, high
        The smallest and the largest value of the samples that were looked at; None for values without an order.
    """

    source: str
    preset: str | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class PresetReport:
    """The measurements of one preset.

    Attributes
    ----------
    preset
        The value of ``--preprocess`` that stands for it.
    samples
        The number of samples; fewer where the first ones already spoke against the preset.
    divergence
        How far the first channels are from what the batch normalisations behind them expect, in nats per channel; None
        where the model has no normalisation.
    contrast, dependence, confidence, information
        How clearly a classifier decides (see ``calibration.class_contrast``); None for other networks, and for presets
        that the normalisations had ruled out.
    better
        Whether it fits measurably better than the samples as they were given.
    """

    preset: str
    samples: int
    divergence: float | None
    contrast: float | None
    dependence: float | None
    confidence: float | None
    information: float | None
    better: bool


@dataclass(frozen=True)
class FitReport:
    """What the network was fed, and how well that fits what it was trained on.

    Attributes
    ----------
    inputs
        The samples by the input's name.
    conclusion
        What the measurements say, in one line.
    presets
        The presets that were compared, the applied one first; empty where none was, and for arrays that fit.
    """

    inputs: dict[str, InputReport]
    conclusion: str
    presets: tuple[PresetReport, ...] = ()
