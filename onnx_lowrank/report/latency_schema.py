"""Measured times as they stand in the report, and the result of ``--measure-latency``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """The time of a run of both models, measured in turns.

    Attributes
    ----------
    before_ms, after_ms
        The median times in milliseconds.
    ratio
        The speedup: the median over the rounds of the original's time divided by the rewritten model's in that round.
    ratio_low, ratio_high, confidence
        The interval that contains the true speedup with this probability.
    rounds
        The number of rounds.
    batch
        The number of samples in a run.
    fresh_process
        Whether a process of its own measured, and not the one that solved before.
    """

    before_ms: float
    after_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    confidence: float
    rounds: int
    batch: int = 1
    fresh_process: bool = True


@dataclass(frozen=True)
class LatencyPlanReport:
    """The measurements behind a plan whose target is the latency; times are milliseconds of a run.

    Attributes
    ----------
    device, onnxruntime, threads, batch
        The setting in which times were measured.
    before_ms
        The time of the original model.
    from_layers_ms
        The time that the measured layers predict for the plan, before a trial of the whole model.
    trial_ms, trial_ratio
        The time and the speedup of a trial, which is the whole model with these ranks but without solved weights; None
        if the plan is for another device.
    predicted_ms, predicted_ratio
        The time and the speedup predicted for the result: those of the trial, or of the layers if there was no trial.
    correction
        The time that the trial saved, divided by the time that the layers predicted it would save.
    rounds
        The number of trials.
    measurements
        The number of times that were measured because the latency table did not have them.
    """

    device: str
    onnxruntime: str
    threads: int
    batch: int
    before_ms: float
    from_layers_ms: float
    trial_ms: float | None
    trial_ratio: float | None
    predicted_ms: float
    predicted_ratio: float
    correction: float
    rounds: int
    measurements: int


@dataclass(frozen=True)
class MeasuredLayer:
    """The measured times of one convolution.

    Attributes
    ----------
    name, geometry
        The name of its node, and its kernel, channels and sizes as text.
    ms
        The time of the original layer in milliseconds.
    fastest, fastest_ms
        The fastest form with its ranks, and its time.
    points
        The number of measured choices of form and ranks.
    """

    name: str
    geometry: str
    ms: float
    fastest: str
    fastest_ms: float
    points: int


@dataclass(frozen=True)
class MeasuredReport:
    """The result of ``--measure-latency``: the times of a model's layers in the latency table.

    Attributes
    ----------
    device, setting
        The device, and the whole setting in which times were measured.
    rank_multiple
        The number that divides every measured rank.
    model_ms
        The time of the whole model in milliseconds.
    layers
        The times of its layers.
    measurements
        The number of times that were measured because the table did not have them.
    """

    device: str
    setting: str
    rank_multiple: int
    model_ms: float
    layers: tuple[MeasuredLayer, ...]
    measurements: int
